"""What every strategy is given and what it must answer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

Kind = Literal["attention", "mlp"]
Evidence = Mapping[str, Mapping[str, float]]
"""Measured importance: kind of evidence -> site name -> value >= 0. Empty where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Site:
    """A weight matrix that can carry an adapter.

    Args:
        name: The module's full name in the model.
        d_in: Input features.
        d_out: Output features.
        depth: Index of its block, 0 at the bottom.
        kind: Part of attention, or of the MLP.
    """

    name: str
    d_in: int
    d_out: int
    depth: int
    kind: Kind

    @property
    def cost(self) -> int:
        """Trainable parameters that one unit of rank adds: a row of A and a column of B."""
        return self.d_in + self.d_out


class Suggester(Protocol):
    """The part of an Optuna trial that a strategy's search space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Return one of ``choices``."""
        ...


class Scorer(Protocol):
    """Anything that can say how important each site is."""

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return each site's importance, as ``Strategy.scores``."""
        ...


@dataclass(frozen=True)
class Strategy(ABC):
    """Scores sites; ``allocate`` alone spends the budget.

    A subclass is a frozen dataclass whose fields are its hyperparameters, each with a neutral default. Parameter names
    in the search space are the field names; the search puts ``name + "/"`` before them.
    """

    name: ClassVar[str]
    needs_evidence: ClassVar[bool] = False
    known_good: ClassVar[Mapping[str, float | str]] = {}
    """The point of its search space that a search tries first."""

    @classmethod
    @abstractmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw this strategy's hyperparameters from its own search space."""

    @abstractmethod
    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return each site's importance.

        Args:
            sites: All sites of the model.
            evidence: What was measured before training; empty unless ``needs_evidence``.

        Returns:
            Site name -> score >= 0. Ranks become proportional to scores; 0 leaves a site unadapted; equal scores are
            plain LoRA.

        Raises:
            ValueError: The evidence that the strategy needs is missing.
        """


def relative_depth(site: Site, sites: Sequence[Site]) -> float:
    """Depth of a site as a fraction of the model: 0 at the lowest block, 1 at the highest, 0.5 in a one-block model."""
    top = max(other.depth for other in sites)
    return site.depth / top if top else 0.5
