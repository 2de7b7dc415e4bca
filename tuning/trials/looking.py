"""Confirmation in looks: which runs are wanted so far, and what each look has told. All of it follows from the rows."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status, TrialConfig
from analysis.stats.assessment import assess
from analysis.stats.outlook import no_more
from analysis.stats.rivals import in_question
from analysis.stats.verdicts import PLAIN, RIVALS, label
from strategies import CONTAINING_PLAIN
from tuning.plan.search_plan import SearchPlan


@dataclass(frozen=True, slots=True)
class Looks:
    """What looks at confirmation runs have come to.

    Args:
        wanted: All runs that are wanted so far; where one of them is still to be trained, a look lies ahead.
        told: A sentence for each strategy of which a look has shown that it needs no more seeds, in order.
    """

    wanted: tuple[TrialConfig, ...]
    told: tuple[str, ...]


def looked(plan: SearchPlan, rows: Sequence[ResultRow], runs: Sequence[TrialConfig]) -> Looks:
    """Replay a search's looks: after each, strategies that are told of, or have no hope, get no more seeds.

    A look sees the runs of its own seeds alone, so a search that goes on after it was cut off comes to the same. What
    others may be judged against, either kind of plain LoRA, has as many seeds as any of them. After the last look
    rivals get the seeds of what wins, since it is tried against them seed by seed; no look sees these.

    Args:
        plan: The search; it has looks.
        rows: All its rows.
        runs: All confirmation runs that there could be, and those of other sizes, which the first look waits for.
    """
    ended = {row.trial_id: row for row in rows}
    searched = [row for row in rows if row.phase == Phase.SEARCH]
    wanted: list[TrialConfig] = []
    told: list[str] = []
    over: set[str] = set()
    wins: set[str] = set()
    for before, look in zip((0, *plan.looks), plan.looks, strict=False):
        wanted += [run for run in runs if before < (run.seed or 0) - plan.seed <= look and _name(run) not in over]
        if any(run.trial_id not in ended for run in wanted):
            return Looks(tuple(wanted), tuple(told))
        seen = [replace(ended[run.trial_id], phase=run.phase) for run in wanted]
        verdicts = assess([*searched, *seen], plan.margin, CONTAINING_PLAIN).verdicts
        asked = in_question(verdicts)
        wins = {item.strategy for item in asked if item.answer == "win"}
        for verdict in asked:
            if verdict.strategy not in over and (why := no_more(verdict, plan.looks)):
                over.add(verdict.strategy)
                told.append(f"{verdict.strategy}, after {look} seeds: {why}")
        if over.issuperset(item.strategy for item in asked):
            break
    return Looks((*wanted, *_rivals_of(wins, wanted, runs)), tuple(told))


def _rivals_of(wins: Container[str], wanted: Sequence[TrialConfig], runs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return the runs of rivals that are not wanted yet, from the seeds of what wins."""
    seeds, there = {run.seed for run in wanted if _name(run) in wins}, {run.trial_id for run in wanted}
    return [
        run
        for run in runs
        if run.phase == Phase.CONFIRM and _name(run) in RIVALS and run.seed in seeds and run.trial_id not in there
    ]


def _name(run: TrialConfig) -> str:
    """Return the label that a run's verdict will have; that of plain LoRA for one of another size."""
    if run.phase == Phase.SIZES:
        return PLAIN
    return label(ResultRow("", "", run.strategy, Status.FINISHED, config=run.to_ray()), run.strategy)
