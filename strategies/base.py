"""The interface of every strategy: its inputs and its scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

if TYPE_CHECKING:  # budgets are made of sites
    from strategies.allocation import RankBudget

Kind = Literal["attention", "mlp"]
Evidence = Mapping[str, Mapping[str, float]]
"""Measured importance: kind of evidence -> site name -> value >= 0. Empty if nothing was measured."""
Score = float | tuple[float, ...]
"""Importance of a site; or of its first unit of rank, its second and so on, later ones being worth 0."""


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

    @property
    def max_rank(self) -> int:
        """The largest rank that is still a low-rank update."""
        return min(self.d_in, self.d_out)


class Suggester(Protocol):
    """The part of an Optuna trial that a strategy's search space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Return one of ``choices``."""
        ...


class Scorer(Protocol):
    """Anything that scores sites."""

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> Mapping[str, Score]:
        """Return each site's importance, as ``Strategy.scores``."""
        ...


@dataclass(frozen=True)
class Strategy(ABC):
    """Scores sites; ``allocate`` alone spends the budget.

    A subclass is a frozen dataclass whose fields are its hyperparameters, each with a neutral default. Parameter names
    in the search space are the field names; the search puts ``name + "/"`` before them.

    What a strategy does beside scoring it names by import path, ``package.module:name``: strategies import no torch.
    """

    name: ClassVar[str]
    measurement: ClassVar[str | None] = None
    """What it scores from, a ``strategies.measurement.Measure``; None if it scores from sites alone."""
    initializer: ClassVar[str | None] = None
    """How A begins, a ``strategies.measurement.Initialize``; None if as PEFT has it."""
    parametrization: ClassVar[str | None] = None
    """What is trained in place of A and B, a ``trainables.training.parametrization.Parametrization``; None if these."""
    allocates_while_training: ClassVar[bool] = False
    """Whether its ranks change while a trial trains; the scores then are those that it begins with."""
    is_null: ClassVar[bool] = False
    """Whether it is searched only to show what is gained without placing ranks; then it has no controls itself."""
    known_good: ClassVar[Mapping[str, float | str]] = {}
    """The point of its search space that a search tries first."""
    neutral: ClassVar[Mapping[str, float | str] | None] = None
    """The point of its search space that is plain LoRA; None if none is."""

    @classmethod
    @abstractmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw this strategy's hyperparameters from its own search space."""

    @classmethod
    def decided(cls) -> str | None:
        """Return when the ranks are decided; None if from the start."""
        if cls.allocates_while_training:
            return "while training"
        return "after the evidence is measured" if cls.measurement else None

    @property
    def training(self) -> str:
        """What makes its trials train otherwise than plain LoRA of the same ranks; empty if nothing does.

        A search tries one of several configurations that differ in nothing that trains.
        """
        if self.parametrization is not None:
            return repr(self)
        return f"{self.initializer} of {self.measurement}" if self.initializer is not None else ""

    def rate_factors(self, sites: Sequence[Site]) -> Mapping[str, float]:
        """Return site name -> what the learning rate is multiplied by there; a site that is left out has 1.

        A strategy that trains something else in place of A and B has none.
        """
        return {}

    def start_budget(self, sites: Sequence[Site], budget: "RankBudget") -> "RankBudget":
        """Return the budget that a trial begins with; it ends within ``budget``."""
        return budget

    @abstractmethod
    def scores(self, sites: Sequence[Site], evidence: Evidence) -> Mapping[str, Score]:
        """Return each site's importance.

        Args:
            sites: All sites of the model.
            evidence: What was measured for the strategies of the search; that of ``measurement`` is among it.

        Returns:
            Site name -> score >= 0. Ranks become proportional to scores; 0 leaves a site unadapted; equal scores are
            plain LoRA. A strategy that scores each unit of rank returns a tuple instead.

        Raises:
            ValueError: The evidence that the strategy needs is missing.
        """


def relative_depth(site: Site, sites: Sequence[Site]) -> float:
    """Depth of a site among those that can be adapted: 0 in the lowest block that has one, 1 in the highest.

    It is 0.5 if all are in one block. A choice of blocks is a model of its own: what falls with depth falls within it.
    """
    depths = {other.depth for other in sites}
    lowest, highest = min(depths), max(depths)
    return (site.depth - lowest) / (highest - lowest) if highest > lowest else 0.5
