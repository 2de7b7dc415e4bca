"""After the search: the best of every strategy again, in full, from fresh seeds; then controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis import pareto, ranking, verdicts
from analysis.rows import ResultRow
from analysis.statistics import FEWER
from strategies import CONTROLS, STRATEGIES, Frozen
from strategies.baseline import Baseline
from strategies.controls import Shuffled
from tuning.plan import SearchPlan
from tuning.space import budget_share, with_whole_budget

ALL_CONTROLS = (*CONTROLS, Frozen.name)
PHASE, SUPERSEDED = "confirm", "superseded"


def confirmations(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Return Ray configurations of the confirmation runs, seed by seed; none if there is nothing to compare.

    All have the whole budget, so that a verdict compares equal budgets. If the search looked for small ones, each
    strategy's smallest trial within the margin of its best is confirmed beside it, at its own size.

    Args:
        plan: The search.
        rows: Its trials.
    """
    searched = [row for row in rows if row.phase == "search"]
    best = ranking.best_of_each_strategy(searched)
    if plan.official or Baseline.name not in best or len(best) < 2:
        return []
    whole = [{**with_whole_budget(row.config), "source": row.trial_id} for row in best.values()]
    close = _smaller(searched, plan.margin) if plan.searches_budget else ()
    return _from_fresh_seeds(plan, [*whole, *({**row.config, "source": f"{row.trial_id}-small"} for row in close)])


def _smaller(searched: Sequence[ResultRow], margin: float) -> Iterator[ResultRow]:
    """Yield each strategy's smallest trial within the margin of its best, if that is any smaller than the budget."""
    measured = pareto.measured(searched)
    largest = max((pareto.point(row)[0] for row in measured), default=0)
    for name, leader in ranking.best_of_each_strategy(measured).items():
        limit = pareto.point(leader)[1] + margin
        close = (row for row in measured if row.strategy == name and pareto.point(row)[1] <= limit)
        smallest = min(close, key=pareto.point)
        if pareto.point(smallest)[0] <= (1 - FEWER) * largest:
            yield smallest


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
    confirmed = [
        row for row in rows
        if row.phase == PHASE and row.strategy not in {Baseline.name, *ALL_CONTROLS}
        and budget_share(row.config) in {None, 1.0}
    ]  # fmt: skip
    leader = list(ranking.mean_losses(confirmed))[:1]
    winners = [item.strategy for item in verdicts.verdicts(rows, plan.margin) if item.answer == "win"]
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys((*leader, *(name for name in winners if name in STRATEGIES))):
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
    rivals, small = len(plan.strategies) - 1, len(plan.strategies) if plan.searches_budget else 0
    return plan.confirm_seeds * (1 + rivals * (1 + len(CONTROLS)) + small)
