"""After the search: the best of every strategy again, in full, from fresh seeds, beside controls."""

from collections.abc import Sequence
from typing import Any

from analysis import ranking
from analysis.rows import ResultRow
from strategies import CONTROLS
from strategies.baseline import Baseline
from tuning.plan import SearchPlan

PHASE = "confirm"


def confirmations(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Return Ray configurations of the confirmation runs, seed by seed; none if there is nothing to compare.

    Seeds follow the search's own, so no run of the search is among them. A seed decides the initial adapter, the order
    of the data and dropout, so runs of one seed are paired.

    Args:
        plan: The search.
        rows: Its trials.
    """
    best = ranking.best_of_each_strategy(rows)
    adaptive = {name: row for name, row in best.items() if name != Baseline.name}
    if plan.official or Baseline.name not in best or not adaptive:
        return []
    leader = min(adaptive.values(), key=lambda row: (row.final_eval_loss, row.strategy))
    configs = [dict(row.config) for row in best.values()] + [_control(name, leader) for name in CONTROLS]
    seeds = range(plan.seed + 1, plan.seed + 1 + plan.confirm_seeds)
    return [{**config, "seed": seed, "phase": PHASE} for seed in seeds for config in configs]


def most_confirmations(plan: SearchPlan) -> int:
    """Return how many confirmation runs a plan can have."""
    if plan.official or Baseline.name not in plan.strategies or len(plan.strategies) < 2:
        return 0
    return plan.confirm_seeds * (len(plan.strategies) + len(CONTROLS))


def _control(name: str, leader: ResultRow) -> dict[str, Any]:
    """Return the leader's configuration with its scores at the wrong matrices."""
    common = {key: value for key, value in leader.config.items() if key != leader.strategy}
    return {**common, "strategy": name, name: {"of": leader.strategy, **leader.config.get(leader.strategy, {})}}
