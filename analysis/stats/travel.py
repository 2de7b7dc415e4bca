"""What two searches have in common: which strategies are ahead in both, and which matrices get the rank."""

import math
from collections.abc import Mapping, Sequence

from analysis.results.rank_patterns import from_block
from analysis.results.rows import ResultRow
from analysis.stats.assessment import SearchAssessment
from analysis.stats.ranking import best_run
from analysis.stats.rivals import PLAIN_KINDS


def ahead(assessment: SearchAssessment) -> str | None:
    """Return the strategy of lowest mean test loss, plain LoRA among them; None without a verdict."""
    means = means_of(assessment)
    return min([*means, assessment.reference], key=lambda name: means.get(name, 0.0)) if means else None


def means_of(assessment: SearchAssessment) -> dict[str, float]:
    """Return strategy -> its mean difference to plain LoRA, of those that have one."""
    return {item.strategy: item.pairs.mean for item in assessment.verdicts if item.pairs.mean is not None}


def allocation_of(assessment: SearchAssessment) -> ResultRow | None:
    """Return the run of what did best beside plain LoRA, confirmed if anything was; None without its ranks."""
    of_each = [assessment.confirmed[verdict.strategy] for verdict in assessment.verdicts]
    others = [runs for runs in of_each if runs[0].strategy not in PLAIN_KINDS]
    searched = [row for name, row in assessment.best_of_each.items() if name not in PLAIN_KINDS]
    run = best_run((others or [[]])[0] if of_each else searched)
    return run if run is not None and run.ranks else None


def tau(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Return Kendall's tau-b; None where there is none, because one of them is the same throughout or too short."""
    if len(values) < 2:
        return None
    from scipy import stats  # here, since it takes a second

    result = float(stats.kendalltau(values, others).statistic)
    return None if math.isnan(result) else result


def order_of_strategies(means: Mapping[str, float], others: Mapping[str, float]) -> tuple[float | None, int]:
    """Return Kendall's tau of the strategies that both have, and how many these are."""
    both = [name for name in means if name in others]
    return tau([means[name] for name in both], [others[name] for name in both]), len(both)


def order_of_ranks(ranks: Mapping[str, int], others: Mapping[str, int]) -> tuple[float | None, int]:
    """Return Kendall's tau of the ranks of matrices of the same kind and relative depth, and how many pairs there are.

    A matrix of the model with fewer blocks is compared with the one of its kind that lies nearest in depth.
    """
    columns, other_columns = _by_kind(ranks), _by_kind(others)
    pairs = [pair for kind in columns if kind in other_columns for pair in _pairs(columns[kind], other_columns[kind])]
    return tau([rank for rank, _ in pairs], [rank for _, rank in pairs]), len(pairs)


def _by_kind(ranks: Mapping[str, int]) -> dict[str, list[int]]:
    """Return name without its block -> the ranks, by depth."""
    kinds: dict[str, dict[int, int]] = {}
    for name, rank in ranks.items():
        number, rest = from_block(name)
        kinds.setdefault(rest, {})[int(number or 0)] = rank
    return {kind: [by_block[block] for block in sorted(by_block)] for kind, by_block in kinds.items()}


def _pairs(column: Sequence[int], other: Sequence[int]) -> list[tuple[int, int]]:
    if len(column) > len(other):
        return [(rank, other_rank) for other_rank, rank in _pairs(other, column)]
    last = max(len(column) - 1, 1)
    return [(rank, other[round(place * (len(other) - 1) / last)]) for place, rank in enumerate(column)]
