"""The define-by-run space of each strategy: its own parameters, its own learning rate and budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strategies import STRATEGIES
from strategies.official import OFFICIAL
from trainables.spec import BUDGET_SHARE, SCALINGS
from tuning.plan.search_plan import SearchPlan

HALVINGS = 3
SMALLEST_SHARE = 0.5**HALVINGS


@dataclass(frozen=True, slots=True)
class Prefixed:
    """A trial seen by one strategy: its parameters get the strategy's name before them."""

    trial: Any
    prefix: str

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high]."""
        return float(self.trial.suggest_float(f"{self.prefix}/{name}", low, high, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Return one of ``choices``."""
        return str(self.trial.suggest_categorical(f"{self.prefix}/{name}", choices))


@dataclass(frozen=True, slots=True)
class Space:
    """Optuna's define-by-run function for one strategy of a plan.

    Every strategy has a learning rate of its own: the best one differs between allocations, and a comparison at one
    shared rate would measure that. With two objectives it has a share of the budget of its own, too.
    """

    plan: SearchPlan
    strategy: str

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Draw one configuration; return the part of it that is not drawn."""
        centre, factor = self.plan.centre_learning_rate, self.plan.learning_rate_factor
        view = Prefixed(trial, self.strategy)
        STRATEGIES[self.strategy].suggest(view)
        view.suggest_float("learning_rate", centre / factor, centre * factor, log=True)
        if self.plan.searches_budget:
            view.suggest_float(BUDGET_SHARE, SMALLEST_SHARE, 1.0, log=True)
        if self.plan.scaling == "search":
            trial.suggest_categorical("scaling", SCALINGS)
            return {"strategy": self.strategy, "seed": self.plan.seed}
        return {"strategy": self.strategy, "seed": self.plan.seed, "scaling": self.plan.scaling}


def fixed_part(plan: SearchPlan, number: int) -> dict[str, Any]:
    """Return what is decided about the ``number``-th trial before Optuna fills in the rest.

    Strategies take turns, so that each gets the same number of trials. Everyone's first trial is its known good point
    at the default learning rate and the whole budget; for the baseline that is plain LoRA.
    """
    name = plan.strategies[number % len(plan.strategies)]
    fixed: dict[str, Any] = {"strategy": name}
    if number < len(plan.strategies):
        fixed |= {f"{name}/{key}": value for key, value in STRATEGIES[name].known_good.items()}
        fixed[f"{name}/learning_rate"] = plan.centre_learning_rate
        if plan.searches_budget:
            fixed[f"{name}/{BUDGET_SHARE}"] = 1.0
        if plan.scaling == "search":
            fixed["scaling"] = SCALINGS[0]
    return fixed


def budget_share(config: Mapping[str, Any]) -> float | None:
    """Return the searched share of the budget that a trial may spend; None where every trial has all of it."""
    share: float | None = config.get(config["strategy"], {}).get(BUDGET_SHARE)
    return share


def experiment_name(config: Mapping[str, Any]) -> str:
    """Return a trial's name everywhere: in Ray, MLflow and the report."""
    strategy, trial_id = config["strategy"], str(config["trial_id"])
    if "official" in config or config.get("phase") == "confirm":
        return trial_id
    rate, share = config.get(strategy, {}).get("learning_rate"), budget_share(config)
    tried = ([] if share is None else [f"budget{share:.2g}"]) + ([] if rate is None else [f"lr{rate:.2g}"])
    return "_".join((strategy, *tried, trial_id))


def budget_class(config: Mapping[str, Any]) -> int:
    """Return how often a trial's budget is halved: 0 above a half of what is given, 1 above a quarter, 2 below."""
    return min(HALVINGS - 1, math.floor(-math.log2(budget_share(config) or 1.0)))


def with_whole_budget(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with all of the budget, whatever share of it was searched."""
    if budget_share(config) is None:
        return dict(config)
    return {**config, config["strategy"]: {**config[config["strategy"]], BUDGET_SHARE: 1.0}}


def official_configs(plan: SearchPlan) -> list[dict[str, Any]]:
    """Return the five experiments of the seed report as configurations, one after the other."""
    scaling = "constant" if plan.scaling == "search" else plan.scaling
    return [
        {
            "trial_id": item.name,
            "official": item.name,
            "strategy": item.strategy,
            "learning_rate": plan.centre_learning_rate,
            "scaling": scaling,
            "seed": plan.seed,
        }
        for item in OFFICIAL
    ]
