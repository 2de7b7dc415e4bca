"""The define-by-run space of each strategy: its own parameters, its own learning rate and budget."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.results.trial_config import BUDGET_SHARE, LEARNING_RATE, TrialConfig
from strategies import STRATEGIES
from strategies.official import OFFICIAL
from trainables.spec import SCALINGS
from tuning.plan.search_plan import HIGHEST_LEARNING_RATE, LOWEST_LEARNING_RATE, SearchPlan

HALVINGS = 3
SMALLEST_SHARE = 0.5**HALVINGS
OUTER, NEARLY = 0.2, 1e-9
"""The share of a range of learning rates, at either end, in which no best may lie; and by how much logarithms err."""


@dataclass(frozen=True, slots=True)
class Prefixed:
    """A trial seen by one strategy: its parameters get the strategy's name before them.

    ``drawn`` has them without it.
    """

    trial: Any
    prefix: str
    drawn: dict[str, Any] = field(default_factory=dict)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high]."""
        self.drawn[name] = float(self.trial.suggest_float(f"{self.prefix}/{name}", low, high, log=log))
        return float(self.drawn[name])

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Return one of ``choices``."""
        self.drawn[name] = str(self.trial.suggest_categorical(f"{self.prefix}/{name}", choices))
        return str(self.drawn[name])


@dataclass(frozen=True, slots=True)
class Space:
    """Optuna's define-by-run function for one strategy of a plan.

    Every strategy has a learning rate of its own: the best one differs between allocations, and a comparison at one
    shared rate would measure that. With two objectives it has a share of the budget of its own, too.

    Args:
        plan: The search.
        strategy: Name of the strategy.
        rates: Between which learning rates it is searched.
    """

    plan: SearchPlan
    strategy: str
    rates: tuple[float, float]

    def __call__(self, trial: Any) -> TrialConfig:
        """Draw one configuration."""
        view, scaling = Prefixed(trial, self.strategy), self.plan.scaling
        STRATEGIES[self.strategy].suggest(view)
        params = dict(view.drawn)
        return TrialConfig(
            strategy=self.strategy,
            params=params,
            learning_rate=view.suggest_float(LEARNING_RATE, *self.rates, log=True),
            budget_share=(
                view.suggest_float(BUDGET_SHARE, SMALLEST_SHARE, 1.0, log=True) if self.plan.searches_budget else None
            ),
            scaling=trial.suggest_categorical("scaling", SCALINGS) if scaling == "search" else scaling,
            seed=self.plan.seed,
        )


def searched_rates(plan: SearchPlan, tried: Collection[float] = (), best: float | None = None) -> tuple[float, float]:
    """Return between which learning rates a strategy is searched.

    They lie around the plan's, a factor to either side. That side is widened by as much, again and again, that does not
    hold all that was tried, or in whose outer fifth, on the scale of logarithms, the best lies.

    Args:
        plan: The search.
        tried: Learning rates that the strategy has been trained at, or told of.
        best: That of its best trial; None as long as there is none.
    """
    centre, factor = plan.centre_learning_rate, plan.learning_rate_factor
    if factor == 1:
        return centre, centre
    distances = [math.log(rate / centre, factor) for rate in tried]  # 1 at the end of the range that it begins with
    low = max(1, math.ceil(-min(distances, default=0.0) - NEARLY))
    high = max(1, math.ceil(max(distances, default=0.0) - NEARLY))
    if best is not None:
        place = (math.log(best / centre, factor) + low) / (low + high)
        low, high = low + (place < OUTER), high + (place > 1 - OUTER)
    highest = math.nextafter(HIGHEST_LEARNING_RATE, 0.0)
    return max(centre / factor**low, LOWEST_LEARNING_RATE), min(centre * factor**high, highest)


def fixed_part(plan: SearchPlan, name: str, is_first: bool) -> dict[str, Any]:
    """Return what is decided about a trial of a strategy before Optuna fills in the rest.

    Everyone's first trial is its known good point at the default learning rate and the whole budget; for the baseline
    that is plain LoRA.
    """
    fixed: dict[str, Any] = {"strategy": name}
    if is_first:
        fixed |= {f"{name}/{key}": value for key, value in STRATEGIES[name].known_good.items()}
        fixed[f"{name}/{LEARNING_RATE}"] = plan.centre_learning_rate
        if plan.searches_budget:
            fixed[f"{name}/{BUDGET_SHARE}"] = 1.0
        if plan.scaling == "search":
            fixed["scaling"] = SCALINGS[0]
    return fixed


def neutral_point(name: str, plain: TrialConfig) -> TrialConfig | None:
    """Return the configuration of a strategy that trains what a trial of plain LoRA does; None if it has none.

    Args:
        name: The strategy's.
        plain: A trial of plain LoRA.
    """
    params = STRATEGIES[name].neutral
    return None if params is None else replace(plain, strategy=name, params=params, trial_id="")


def budget_class(config: TrialConfig) -> int:
    """Return how often a trial's budget is halved: 0 above a half of what is given, 1 above a quarter, 2 below."""
    return min(HALVINGS - 1, math.floor(-math.log2(config.budget_share or 1.0)))


def to_optuna(config: TrialConfig) -> dict[str, Any]:
    """Return what is drawn of a configuration, under the names that ``Space`` draws it by."""
    drawn = {**config.params, LEARNING_RATE: config.learning_rate, BUDGET_SHARE: config.budget_share}
    named = {f"{config.strategy}/{name}": value for name, value in drawn.items() if value is not None}
    return {"strategy": config.strategy} | ({} if config.scaling is None else {"scaling": config.scaling}) | named


def official_configs(plan: SearchPlan) -> list[TrialConfig]:
    """Return the five experiments of the seed report as configurations, one after the other."""
    scaling = "constant" if plan.scaling == "search" else plan.scaling
    return [
        TrialConfig(
            strategy=item.strategy,
            trial_id=item.name,
            official=item.name,
            learning_rate=plan.centre_learning_rate,
            scaling=scaling,
            seed=plan.seed,
        )
        for item in OFFICIAL
    ]
