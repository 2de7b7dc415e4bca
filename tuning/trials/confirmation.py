"""After the search, from fresh seeds: the best of every strategy, other sizes of plain LoRA, then controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from analysis.results.rows import ResultRow
from analysis.results.trial_config import AFTER_SEARCH, Phase, TrialConfig
from analysis.stats import pareto, ranking
from analysis.stats.assessment import assess
from analysis.stats.sizes import margin_in_nats
from analysis.stats.statistics import has_fewer
from strategies import CONTAINING_PLAIN, CONTROLS, STRATEGIES, Frozen
from strategies.baseline import Baseline
from strategies.controls import Shuffled
from tuning.plan.search_plan import SearchPlan
from tuning.trials.looking import Looks, looked

ALL_CONTROLS = (*CONTROLS, Frozen.name)


def confirmations(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[TrialConfig]:
    """Return the configurations of the confirmation runs, seed by seed; none if there is nothing to compare.

    All have the whole budget, so that a verdict compares equal budgets. If the search looked for small ones, each
    strategy's smallest trial within the margin of its best is confirmed beside it, at its own size.

    Args:
        plan: The search.
        rows: Its trials.
    """
    if plan.looks:
        return [run for run in looks(plan, rows).wanted if run.phase == Phase.CONFIRM]
    return _all(plan, rows)


def looks(plan: SearchPlan, rows: Sequence[ResultRow]) -> Looks:
    """Return what the looks of a search that looks for itself have come to; nothing if there is nothing to compare."""
    return looked(plan, rows, [*_all(plan, rows), *sizes(plan, rows)])


def _all(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[TrialConfig]:
    searched = [row for row in rows if row.phase == Phase.SEARCH]
    best = ranking.best_of_each_strategy(searched)
    if plan.official or Baseline.name not in best or len(best) < 2:
        return []
    whole = [replace(row.trial_config.with_whole_budget(), source=row.trial_id) for row in best.values()]
    close = _smaller(searched, margin_in_nats(plan.margin, None)) if plan.searches_budget else ()
    small = [replace(row.trial_config, source=f"{row.trial_id}-small") for row in close]
    return _from_fresh_seeds(plan, [*whole, *small])


def sizes(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[TrialConfig]:
    """Return plain LoRA's best configuration at other sizes than the budget's, seed by seed; none without a verdict.

    Seeds are the first of the confirmation's, so that each run is paired with one of each strategy. At half the budget
    plain LoRA needs a rank of 2 to have any at all matrices, at a quarter one of 4.

    Args:
        plan: The search.
        rows: Its trials.
    """
    if not plan.size_seeds or not _all(plan, rows):
        return []
    best = ranking.best_of_each_strategy([row for row in rows if row.phase == Phase.SEARCH])[Baseline.name]
    shares = {
        name: share for name, share in plan.sizes_tried.items() if share * min((best.ranks or {"": 2}).values()) >= 1
    }
    config = best.trial_config.with_whole_budget()
    sized = [replace(config, budget_share=share, source=f"{best.trial_id}-{name}") for name, share in shares.items()]
    runs = _from_fresh_seeds(plan, sized, Phase.SIZES)
    return [run for run in runs if run.seed is not None and run.seed <= plan.seed + plan.size_seeds]


def _smaller(searched: Sequence[ResultRow], margin: float) -> Iterator[ResultRow]:
    """Yield each strategy's smallest trial within the margin of its best, if that is any smaller than the budget."""
    measured = pareto.measured(searched)
    largest = max((pareto.point(row)[0] for row in measured), default=0)
    for name, leader in ranking.best_of_each_strategy(measured).items():
        limit = pareto.point(leader)[1] + margin
        close = (row for row in measured if row.strategy == name and pareto.point(row)[1] <= limit)
        smallest = min(close, key=pareto.point)
        if has_fewer(pareto.point(smallest)[0], largest):
            yield smallest


def controls(plan: SearchPlan, rows: Sequence[ResultRow]) -> list[TrialConfig]:
    """Return the configurations of the controls: an allocation's scores at the wrong matrices.

    Those of every strategy that wins, at the size at which it does, and of the one of the lowest mean evaluation loss
    over its confirmation runs with the whole budget. If ranks were found while training there are no scores: the ranks
    that its best run of the search ended with are then given to plain LoRA from the start (``frozen``), at plain LoRA's
    learning rate, and the control of that is its shuffle. A null is a control itself, and has none.

    Args:
        plan: The search.
        rows: Its trials and its confirmation runs.
    """
    assessment = assess(rows, plan.margin, CONTAINING_PLAIN)
    confirmed = {
        name: runs
        for name, runs in assessment.confirmed.items()
        if runs[0].strategy not in {Baseline.name, *ALL_CONTROLS} and not STRATEGIES[runs[0].strategy].is_null
    }
    whole = {
        name: runs for name, runs in confirmed.items() if runs[0].budget_share in {None, 1.0} and ranking.usable(runs)
    }
    leader = min(whole, key=lambda name: ranking.mean_loss(whole[name]), default=None)
    winners = [item.strategy for item in assessment.verdicts if item.answer == "win"]
    runs: list[TrialConfig] = []
    for name in dict.fromkeys(name for name in (leader, *winners) if name in confirmed):
        frozen = STRATEGIES[confirmed[name][0].strategy].allocates_while_training
        configs = _frozen(assessment.best_of_each, confirmed[name]) if frozen else _misplaced(confirmed[name][0])
        seeds = {run.seed for run in confirmed[name]}  # each has as many as looks, or time, have left it
        runs += [run for run in _from_fresh_seeds(plan, configs) if run.seed in seeds]
    return sorted(runs, key=lambda run: run.seed or 0)


def _misplaced(run: ResultRow) -> list[TrialConfig]:
    return [replace(run.trial_config, strategy=name, control_of=run.strategy) for name in CONTROLS]


def _frozen(best: Mapping[str, ResultRow], runs: Sequence[ResultRow]) -> list[TrialConfig]:
    strategy, share = runs[0].strategy, runs[0].budget_share
    plain, source = best[Baseline.name], best[strategy]
    if source.budget_share != share:  # only its confirmation runs had this much
        source = ranking.best_of_each_strategy(runs)[strategy]
    config = plain.trial_config.with_whole_budget()
    frozen = replace(
        config,
        strategy=Frozen.name,
        control_of=strategy,
        source=f"{source.trial_id}_{plain.trial_id}",
        params={**config.params, "ranks": " ".join(str(rank) for rank in (source.ranks or {}).values())},
        budget_share=config.budget_share if share is None else share,
    )
    return [frozen, replace(frozen, strategy=Shuffled.name, control_of=Frozen.name)]


def _from_fresh_seeds(
    plan: SearchPlan, configs: Sequence[TrialConfig], phase: Phase = Phase.CONFIRM
) -> list[TrialConfig]:
    """Return each configuration with each seed.

    Seeds follow the search's own, so no run of the search is among them. A seed decides the initial adapter, the order
    of the data and dropout, so runs of one seed are paired.
    """
    seeds = range(plan.seed + 1, plan.seed + 1 + plan.most_seeds)
    at = plan.looks if phase == Phase.CONFIRM else ()
    return [
        replace(config, seed=seed, phase=phase, looks=at, trial_id=f"{config.strategy}_{config.source}_seed{seed}")
        for seed in seeds
        for config in configs
    ]


def regrouped(rows: Sequence[ResultRow], wanted: Sequence[TrialConfig]) -> list[ResultRow]:
    """Return the confirmation runs whose phase changes since a longer search finds other trials best.

    Args:
        rows: Of one kind, of strategies or of controls; those of the search are passed over.
        wanted: Configurations of that kind that are to be confirmed now.
    """
    phases = {config.trial_id: config.phase for config in wanted}
    again = [row for row in rows if row.phase in {*AFTER_SEARCH, Phase.SUPERSEDED}]
    changed = [replace(row, phase=phases.get(row.trial_id, Phase.SUPERSEDED)) for row in again]
    return [new for old, new in zip(again, changed, strict=True) if new.phase != old.phase]
