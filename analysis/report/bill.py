"""The bill of each strategy: what its search took, and what one training of what it found takes."""

import math
import statistics
from collections.abc import Callable, Sequence

from analysis.results.markup import table
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status
from analysis.stats.assessment import SearchAssessment
from analysis.stats.verdicts import PLAIN

OF_BASE, OF_ADAPTER = 4, 6
"""Floating-point operations a parameter and token: both ways through both, and gradients of the adapter alone."""
BEGINS_WITH = {"adalora": "initial"}
"""Strategy whose trials begin with more than they end with -> the hyperparameter that says how many times as much."""
HEADERS = (
    "strategy", "search: learned tokens", "FLOP", "time", "one training: learned tokens", "FLOP", "time",
    "parameters at the start",
)  # fmt: skip


def section(assessment: SearchAssessment, base_params: int | None) -> list[str]:
    """Return the section; empty if no trial says what it took.

    Args:
        assessment: What the rows of the search say.
        base_params: Parameters of the base model; None if unknown, and then so are operations.
    """
    searched = [row for row in assessment.searched if row.tokens]
    if not searched:
        return []
    rank = _rank_of(assessment.best_of_each.get(PLAIN))
    names = dict.fromkeys(row.strategy for row in searched)
    return [
        "### Bill of Each Strategy", "",
        table([_line(name, assessment.rows, base_params, rank) for name in names], HEADERS), "",
        f"What searching a strategy took, trials that were stopped or diverged among them, and what training its best "
        f"once more takes: the mean of its confirmation runs with the whole budget, or else of its trials that "
        f"finished. Operations (FLOP) are an estimate: {OF_BASE} a parameter of the base and {OF_ADAPTER} a parameter "
        f"of the adapter for each learned token; evaluation, and tokens that are read and not learned, are left out. A "
        f"strategy that prunes is counted with the parameters that it begins with. Times are shares of a device that "
        f"trials train on together.", "",
    ]  # fmt: skip


def _line(name: str, rows: Sequence[ResultRow], base_params: int | None, rank: int | None) -> list[str]:
    runs = [row for row in rows if row.strategy == name and row.control_of is None]
    searched = [row for row in runs if row.phase == Phase.SEARCH]
    whole = [row for row in runs if row.status == Status.FINISHED and row.phase in {Phase.CONFIRM, Phase.SEARCH}]
    confirmed = [row for row in whole if row.phase == Phase.CONFIRM and row.budget_share in {None, 1.0}]
    final = confirmed or whole
    starts = [start for row in final if (start := params_at_start(row, rank)) is not None]
    return [
        name,
        *_cells(searched, base_params, rank, math.fsum),
        *_cells(final, base_params, rank, statistics.fmean),
        f"{max(starts):,}" if starts else "",
    ]


def _cells(
    runs: Sequence[ResultRow], base_params: int | None, rank: int | None, of_all: Callable[[list[float]], float]
) -> list[str]:
    """Return learned tokens, operations and time of some runs, summed or their mean, over those that say it."""
    tokens = [row.tokens for row in runs]
    operations = [operations_of(row, base_params, rank) for row in runs]
    seconds = [row.training_time_seconds for row in runs]
    formats = ("{:,.0f}", "{:.2e}", "{:,.1f} s")
    each = [[value for value in values if value is not None] for values in (tokens, operations, seconds)]
    return [style.format(of_all(values)) if values else "" for style, values in zip(formats, each, strict=True)]


def operations_of(run: ResultRow, base_params: int | None, rank: int | None) -> float | None:
    """Return about how many floating-point operations a run took; None if that is unknown.

    Args:
        run: The run.
        base_params: Parameters of the base model.
        rank: Of plain LoRA with the whole budget.
    """
    start = params_at_start(run, rank)
    if base_params is None or run.tokens is None or start is None:
        return None
    return float(run.tokens) * (OF_BASE * base_params + OF_ADAPTER * start)


def params_at_start(run: ResultRow, rank: int | None) -> int | None:
    """Return the parameters that a run began with; of one that pruned, its whole rank at the start is rounded up.

    Args:
        run: The run.
        rank: Of plain LoRA with the whole budget; None if unknown, and then nothing is rounded.
    """
    times = run.trial_config.params.get(BEGINS_WITH.get(run.strategy, ""), 1.0)
    if run.trainable_parameters is None or not isinstance(times, int | float):
        return run.trainable_parameters
    begun = times if rank is None else math.ceil(round(times * rank, 9)) / rank
    return round(run.trainable_parameters * begun)


def _rank_of(plain: ResultRow | None) -> int | None:
    """Return plain LoRA's rank; None if it has several, as with a budget that no whole rank fills."""
    ranks = set(((plain and plain.ranks) or {}).values())
    return ranks.pop() if len(ranks) == 1 else None
