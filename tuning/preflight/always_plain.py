"""Strategies that can be nothing but plain LoRA on the chosen matrices."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from strategies import STRATEGIES, Strategy, allocate
from strategies.base import Site
from strategies.baseline import Baseline
from trainables.spec import Workload

DRAWS = 32


@dataclass(frozen=True, slots=True)
class Uniform:
    """Draws hyperparameters evenly from their ranges, the same ones each time."""

    generator: random.Random = field(default_factory=lambda: random.Random(0))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high]; whether the range is meant logarithmically is of no account here."""
        return self.generator.uniform(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Return one of ``choices``."""
        return self.generator.choice(choices)


def always_plain(names: Sequence[str], workload: Workload) -> tuple[str, ...]:
    """Return the strategies that train as plain LoRA whatever their hyperparameters are.

    Args:
        names: Strategies of a search. Those whose evidence is not yet measured are passed over.
        workload: What the trials share; its coverage is known.
    """
    if workload.coverage is None:
        return ()
    sites, evidence, budget = workload.coverage.sites, workload.evidence, workload.budget
    plain = allocate(Baseline().scores(sites, {}), sites, budget).digest

    def is_plain(strategy: Strategy) -> bool:
        if strategy.allocates_while_training or _trains_otherwise(strategy, sites):
            return False
        try:
            return allocate(strategy.scores(sites, evidence), sites, budget).digest == plain
        except ValueError:  # its evidence is not measured yet
            return False

    others = (name for name in names if name != Baseline.name)
    return tuple(name for name in others if all(map(is_plain, _drawn(STRATEGIES[name]))))


def in_words(names: Sequence[str]) -> str:
    """Return what to say of such strategies."""
    return f"{', '.join(names)}: nothing but plain LoRA on these matrices, whatever the hyperparameters"


def _trains_otherwise(strategy: Strategy, sites: Sequence[Site]) -> bool:
    """Return True if a strategy trains in another way than plain LoRA of its ranks; rates by depth may all be one."""
    if strategy.parametrization is not None or strategy.initializer is not None:
        return True
    return any(factor != 1 for factor in strategy.rate_factors(sites).values())


def _drawn(cls: type[Strategy]) -> list[Strategy]:
    """Return a strategy's known good point, and others of its search space."""
    draws = Uniform()
    return [cls(**cls.known_good), *(cls.suggest(draws) for _ in range(DRAWS))]
