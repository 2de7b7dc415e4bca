"""What strategies have measured before the first trial, to score from and for adapters to begin as.

A strategy names one function that measures and one that initialises, by import path: they are loaded only where they
are called, and may stand in its own file. They are handed what they need; tensors have methods, and NumPy takes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from strategies.allocation import RankBudget
from strategies.base import Evidence, Site


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement gives.

    Args:
        evidence: What strategies score from; no other measurement of a search may have a kind of the same name.
        tensors: Site name -> what initializers begin from, PyTorch's or NumPy's; empty if they need nothing.
    """

    evidence: Evidence
    tensors: Mapping[str, Any] = field(default_factory=dict)


class NotMeasurable(ValueError):
    """A model is not what a measurement needs; the message says where. Its strategies are to be left out."""


class FrozenBase(Protocol):
    """The base model, as far as measurements need it."""

    @property
    def model(self) -> Any:
        """The Hugging Face model, in evaluation mode, without gradients; a measurement leaves it as it was."""
        ...

    @property
    def sites(self) -> tuple[Site, ...]:
        """The matrices that can carry an adapter."""
        ...

    def weight(self, site: Site) -> Any:
        """Return a site's matrix, a tensor of shape (d_out, d_in)."""
        ...


class Measure(Protocol):
    """What ``Strategy.measurement`` names."""

    def __call__(self, base: FrozenBase, batches: Iterable[Any], budget: RankBudget, /) -> Measured:
        """Measure once for all trials of a search. What it gives is kept, and used again until its file is changed.

        Args:
            base: The frozen base.
            batches: The training split in order, each with ``inputs`` for the model and ``labels``; made as they are
                asked for.
            budget: What a trial may spend.

        Raises:
            NotMeasurable: It cannot be measured on this model.
            ValueError: It cannot be measured; the message says what to change.
        """
        ...


class Initialize(Protocol):
    """What ``Strategy.initializer`` names."""

    def __call__(self, site: Site, rank: int, tensors: Mapping[str, Any], /) -> Any:
        """Return what A begins as at a site, of shape (rank, d_in); B begins as 0.

        Args:
            site: The site.
            rank: Its rank, at least 1.
            tensors: What the strategy's measurement gave; empty if it has none.

        Raises:
            ValueError: There is no such beginning; the trial fails.
        """
        ...
