"""What one trial was asked to do, and the nested form that it has for Ray, in records and in rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, Self

LEARNING_RATE, BUDGET_SHARE, CONTROL_OF = "learning_rate", "budget_share", "of"
LOOKS = (5, 10, 20, 40)
"""Numbers of seeds at which a search that looks for itself is looked at."""


class Phase(StrEnum):
    """Part of the protocol that a trial belongs to."""

    SEARCH = "search"
    CONFIRM = "confirm"
    SIZES = "sizes"  # plain LoRA with more or less than the budget, from the confirmation's seeds
    SUPERSEDED = "superseded"  # confirms what a longer search no longer finds best; only rows are


AFTER_SEARCH = (Phase.CONFIRM, Phase.SIZES)
"""Phases whose trials are all trained in full and measured on the test split, document by document."""


class Status(StrEnum):
    """How a trial stands, or ended."""

    RUNNING = "running"
    FINISHED = "finished"  # all steps
    STOPPED = "stopped"  # by the scheduler
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TrialConfig:
    """One trial's own choices.

    Args:
        strategy: Name of the strategy that allocates the ranks.
        trial_id: Unique in its search; empty as long as it is not handed out.
        phase: Phase of the search.
        params: The strategy's hyperparameters; a control's are those of what it is a control of.
        learning_rate: Peak learning rate.
        budget_share: Searched share of the budget; None where every trial has all of it. Above 1 in ``sizes`` alone.
        scaling: How the adapter's scale depends on its rank.
        seed: Of the adapter's initial weights, the order of the data and dropout.
        control_of: The strategy that it is a control of.
        source: The trial that it repeats with another seed.
        official: The experiment of the seed report that it is.
        looks: Numbers of seeds at which confirmation runs are looked at, rising; empty if they are looked at once.
    """

    strategy: str
    trial_id: str = ""
    phase: Phase = Phase.SEARCH
    params: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    budget_share: float | None = None
    scaling: str | None = None
    seed: int | None = None
    control_of: str | None = None
    source: str | None = None
    official: str | None = None
    looks: tuple[int, ...] = ()

    @classmethod
    def from_ray(cls, config: Mapping[str, Any]) -> Self:
        """Read the nested form: the strategy's choices are under its name, the others beside it.

        Raises:
            KeyError: No strategy is named.
            ValueError: The phase is unknown, or looks are no rising numbers.
        """
        strategy = config["strategy"]
        params = dict(config.get(strategy) or {})
        return cls(
            strategy=strategy,
            trial_id=config.get("trial_id", ""),
            phase=Phase(config.get("phase", Phase.SEARCH)),
            learning_rate=params.pop(LEARNING_RATE, config.get(LEARNING_RATE)),
            budget_share=params.pop(BUDGET_SHARE, None),
            control_of=params.pop(CONTROL_OF, None),
            params=params,
            looks=_looks(config.get("looks")),
            **{name: config.get(name) for name in ("scaling", "seed", "source", "official")},
        )

    def to_ray(self) -> dict[str, Any]:
        """Return the nested form; values that are None or the default are left out."""
        rates = {LEARNING_RATE: self.learning_rate}
        params = _without_none({CONTROL_OF: self.control_of, **self.params, **rates, BUDGET_SHARE: self.budget_share})
        return _without_none(
            {
                "strategy": self.strategy,
                "seed": self.seed,
                "scaling": self.scaling,
                "official": self.official,
                **(rates if self.official is not None else {self.strategy: params or None}),
                "source": self.source,
                "looks": ",".join(map(str, self.looks)) or None,
                "phase": None if self.phase == Phase.SEARCH else str(self.phase),
                "trial_id": self.trial_id or None,
            }
        )

    @property
    def name(self) -> str:
        """The trial's name everywhere: in Ray, MLflow and the report."""
        if self.official is not None or self.phase in AFTER_SEARCH:
            return self.trial_id
        share = [] if self.budget_share is None else [f"budget{self.budget_share:.2g}"]
        rate = [] if self.learning_rate is None else [f"lr{self.learning_rate:.2g}"]
        return "_".join((self.strategy, *share, *rate, self.trial_id))

    def with_whole_budget(self) -> Self:
        """Return a configuration with all of the budget, whatever share of it was searched."""
        return self if self.budget_share is None else replace(self, budget_share=1.0)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _looks(text: Any) -> tuple[int, ...]:
    """Return numbers of seeds from text such as ``5,10``; none from None."""
    looks = () if text is None else tuple(int(word) for word in str(text).split(","))
    if any(look <= before for before, look in pairwise((0, *looks))):
        raise ValueError(f"looks must rise, got {str(text)[:40]}")
    return looks
