"""Rank decided while training: start with more than the budget, prune what matters least."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.allocation import RankBudget
from strategies.base import Evidence, Site, Strategy, Suggester

STEPS_PER_PRUNING = 800


@dataclass(frozen=True, slots=True)
class Phases:
    """When ranks are pruned, in optimizer steps.

    Args:
        start: Steps before the first pruning.
        final: Steps after the last one.
        every: Steps from one pruning to the next.
    """

    start: int
    final: int
    every: int


@dataclass(frozen=True)
class AdaLora(Strategy):
    """Begins as plain LoRA of ``initial`` times the budget, and ends within it (see ``trainables.training.adalora``).

    Args:
        initial: Rank at the start over that of plain LoRA of the budget's cost, rounded up to a whole rank.
        orthogonal: Weight of the penalty that keeps the singular vectors orthogonal.
        start: Share of the steps before the first pruning.
        final: Share of the steps after the last pruning.

    Source:
        Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning" (arXiv 2303.10512). There
        ``initial`` is 1.5, ``orthogonal`` between 0.1 and 0.5, ``start`` about a tenth and ``final`` about a half; its
        long trainings prune at one step in some 800, which is fixed here.
    """

    initial: float = 1.5
    orthogonal: float = 0.3
    start: float = 0.1
    final: float = 0.5
    name: ClassVar[str] = "adalora"
    known_good: ClassVar[Mapping[str, float | str]] = {
        "initial": 1.5, "orthogonal": 0.3, "start": 0.1, "final": 0.5,
    }  # fmt: skip
    parametrization: ClassVar[str | None] = "trainables.training.adalora:SingularValues"
    allocates_while_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.initial < 1:
            raise ValueError(f"adalora/initial must be at least 1, got {self.initial}")
        if self.orthogonal < 0:
            raise ValueError(f"adalora/orthogonal must be at least 0, got {self.orthogonal}")
        if min(self.start, self.final) < 0 or self.start + self.final >= 1:
            raise ValueError(
                f"adalora/start and adalora/final are shares that leave something to prune in, got {self.start} and "
                f"{self.final}"
            )

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw each from a range around the paper's value."""
        return cls(
            initial=trial.suggest_float("initial", 1.25, 3.0),
            orthogonal=trial.suggest_float("orthogonal", 0.03, 1.0, log=True),
            start=trial.suggest_float("start", 0.0, 0.25),
            final=trial.suggest_float("final", 0.2, 0.7),
        )

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return 1 for every site: no site is preferred at the start."""
        return {site.name: 1.0 for site in sites}

    @property
    def training(self) -> str:
        """The penalty and the phases; ``initial`` shows in the ranks that a trial begins with."""
        return f"{self.name} {self.orthogonal:.2e} {self.start:.2e} {self.final:.2e}"

    def start_budget(self, sites: Sequence[Site], budget: RankBudget) -> RankBudget:
        """Return the budget that a trial begins with: one rank at every site, as far as its dimensions allow."""
        mean = budget.params / sum(site.cost for site in sites)
        rank = max(1, math.ceil(round(self.initial * mean, 9)))
        return RankBudget(sum(site.cost * min(rank, site.max_rank) for site in sites), high=rank)

    def phases(self, steps: int) -> Phases:
        """Return when a trial of ``steps`` steps is pruned: at least once, after its last step if need be."""
        start = min(round(self.start * steps), steps - 1)
        final = min(round(self.final * steps), steps - start - 1)
        return Phases(start, final, max(1, steps // STEPS_PER_PRUNING))
