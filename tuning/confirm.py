"""After the search: the best of every strategy again, in full, from fresh seeds; then controls."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis import ranking, verdicts
from analysis.rows import ResultRow
from strategies import CONTROLS, STRATEGIES, Frozen
from strategies.baseline import Baseline
from strategies.controls import Shuffled
from tuning.plan import SearchPlan
from tuning.space import budget_share, with_whole_budget

ALL_CONTROLS = (*CONTROLS, Frozen.name)
PHASE, SUPERSEDED = "confirm", "superseded"


def confirmations(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Return Ray configurations of the confirmation runs, seed by seed; none if there is nothing to compare.

    All have the whole budget, so that a verdict compares equal budgets even if the search looked for small ones.

    Args:
        plan: The search.
        rows: Its trials.
    """
    best = ranking.best_of_each_strategy(row for row in rows if row.phase == "search")
    if plan.official or Baseline.name not in best or len(best) < 2:
        return []
    return _from_fresh_seeds(plan, [{**with_whole_budget(row.config), "source": row.trial_id} for row in best.values()])


def controls(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Return Ray configurations of the controls: an allocation's scores at the wrong matrices.

    Those of every strategy that wins, and of the one of the lowest mean evaluation loss over its confirmation runs. If
    ranks were found while training there are no scores: the ranks that its best run of the search ended with are then
    given to plain LoRA from the start (``frozen``), at plain LoRA's learning rate, and the control of that is its
    shuffle.

    Args:
        plan: The search.
        rows: Its trials and its confirmation runs.
    """
    confirmed = [row for row in rows if row.phase == PHASE and row.strategy not in {Baseline.name, *ALL_CONTROLS}]
    leader = list(ranking.mean_losses(confirmed))[:1]
    winners = [item.strategy for item in verdicts.verdicts(rows, plan.margin) if item.answer == "win"]
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys((*leader, *winners)):
        frozen = STRATEGIES[name].allocates_while_training
        found += _frozen(rows, confirmed, name) if frozen else _misplaced(confirmed, name)
    return _from_fresh_seeds(plan, found)


def _misplaced(confirmed: Sequence[ResultRow], strategy: str) -> list[dict[str, Any]]:
    config = next(row.config for row in confirmed if row.strategy == strategy)
    common = {key: value for key, value in config.items() if key != strategy}
    own = {"of": strategy, **config.get(strategy, {})}
    return [{**common, "strategy": name, name: own} for name in CONTROLS]


def _frozen(rows: Sequence[ResultRow], confirmed: Sequence[ResultRow], leader: str) -> list[dict[str, Any]]:
    best = ranking.best_of_each_strategy(row for row in rows if row.phase == "search")
    plain, found = best[Baseline.name], best[leader]
    if budget_share(found.config) not in {None, 1.0}:  # only its confirmation runs had the whole budget
        found = ranking.best_of_each_strategy(confirmed)[leader]
    common = {**with_whole_budget(plain.config), "source": f"{found.trial_id}_{plain.trial_id}"}
    ranks = " ".join(str(rank) for rank in (found.ranks or {}).values())
    own = {**common.pop(Baseline.name), "ranks": ranks}
    named = {Frozen.name: {"of": leader, **own}, Shuffled.name: {"of": Frozen.name, **own}}
    return [{**common, "strategy": name, name: config} for name, config in named.items()]


def _from_fresh_seeds(plan: SearchPlan, configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each configuration with each seed.

    Seeds follow the search's own, so no run of the search is among them. A seed decides the initial adapter, the order
    of the data and dropout, so runs of one seed are paired.
    """
    seeds = range(plan.seed + 1, plan.seed + 1 + plan.confirm_seeds)
    return [
        {**config, "seed": seed, "phase": PHASE, "trial_id": f"{config['strategy']}_{config['source']}_seed{seed}"}
        for seed in seeds
        for config in configs
    ]


def regrouped(rows: Sequence[ResultRow], wanted: Sequence[Mapping[str, Any]]) -> list[ResultRow]:
    """Return the confirmation runs whose phase changes since a longer search finds other trials best.

    Args:
        rows: Of one kind, of strategies or of controls; those of the search are passed over.
        wanted: Configurations of that kind that are to be confirmed now.
    """
    ids = {config["trial_id"] for config in wanted}
    again = [row for row in rows if row.phase in {PHASE, SUPERSEDED}]
    changed = [replace(row, phase=PHASE if row.trial_id in ids else SUPERSEDED) for row in again]
    return [new for old, new in zip(again, changed, strict=True) if new.phase != old.phase]


def most_confirmations(plan: SearchPlan) -> int:
    """Return how many confirmation runs a plan can have."""
    if plan.official or Baseline.name not in plan.strategies or len(plan.strategies) < 2:
        return 0
    rivals = len(plan.strategies) - 1
    return plan.confirm_seeds * (1 + rivals * (1 + len(CONTROLS)))
