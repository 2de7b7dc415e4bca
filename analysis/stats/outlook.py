"""Whether more seeds would tell about a strategy that nobody can tell about yet, in a search that looks for itself.

    Symbols
        n_k, n_K   seeds now and at the last look;  d_s, d, M, P, h  as in ``statistics``
        H          half-width that n_K seeds have at the last look's level (``looks``), with all variances as estimated
    Where the mean of n_K seeds will be in 8 of 10 searches like it; Spiegelhalter et al. (Controlled Clinical Trials 7,
    1986), predictive probability
        low, high = d -+ t(0.9, n_k - 1) sd(d_s) sqrt(1 / n_k - 1 / n_K)
    Seeds may tell if a mean among these would give an answer
        win: low < -H;  loss: high > H;  tie: the |d| nearest to 0 has |d| + H < M;  non-inferior: low + H < M, if fewer

A strategy that has no hope is not trained further. That can take wins away, and never gives any.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np
from scipy.special import stdtrit

from analysis.results.trial_config import Status
from analysis.stats.looks import error_at
from analysis.stats.statistics import Paired
from analysis.stats.verdicts import Verdict

WITHIN = 0.9
"""Quantile up to which the mean of more seeds is expected: 8 of 10 lie between this and its opposite."""


class Outlook(StrEnum):
    """What is to be expected of more seeds."""

    OPEN = "open"  # they may tell
    SEEDS = "seeds"  # those up to the last look would hardly
    DOCUMENTS = "documents"  # they would, if there were more test documents


def no_more(verdict: Verdict, looks: Sequence[int]) -> str:
    """Return in words why a strategy needs no more seeds; nothing if it does.

    Args:
        verdict: On it, at a look.
        looks: Numbers of seeds at which is looked, rising.
    """
    if verdict.diverged:
        return f"{verdict.answer}, since runs {Status.DIVERGED}"
    if verdict.answer != "cannot tell":
        return verdict.answer
    ahead = outlook(verdict.pairs, verdict.margin, verdict.fewer, looks)
    if ahead == Outlook.OPEN:
        return ""
    hardly = f"even {looks[-1]} seeds would hardly tell" if verdict.pairs.seeds < looks[-1] else "seeds end here"
    return f"{verdict.answer}, and {'documents, not seeds, are what lacks' if ahead == Outlook.DOCUMENTS else hardly}"


def lacks(verdict: Verdict, looks: Sequence[int]) -> str | None:
    """Return what a strategy lacks that nobody can tell about: ``seeds``, or ``documents`` of the test split.

    Args:
        verdict: On it.
        looks: As for ``no_more``; None is returned without any, and where there is an answer or more seeds may tell.
    """
    if not looks or verdict.diverged or verdict.answer != "cannot tell":
        return None
    ahead = outlook(verdict.pairs, verdict.margin, verdict.fewer, looks)
    return None if ahead == Outlook.OPEN else str(ahead)


def outlook(pairs: Paired, margin: float, fewer: bool, looks: Sequence[int]) -> Outlook:
    """Return whether seeds up to the last look may tell about a strategy of which nobody can tell yet.

    Args:
        pairs: As its verdict has them.
        margin: Difference that does not matter, in nats per token.
        fewer: As for ``judge``.
        looks: Numbers of seeds at which is looked, rising.
    """
    if len(pairs.documents) == 1:
        return Outlook.DOCUMENTS
    if pairs.interval is None or _may_tell(pairs, margin, fewer, looks):
        return Outlook.OPEN
    if pairs.documents and _may_tell(replace(pairs, documents=()), margin, fewer, looks):
        return Outlook.DOCUMENTS
    return Outlook.SEEDS


def _may_tell(pairs: Paired, margin: float, fewer: bool, looks: Sequence[int]) -> bool:
    mean, last = pairs.mean or 0.0, looks[-1]
    half_width = replace(pairs, error=error_at(last, looks)).half_width(last)
    deviation = float(np.std(pairs.differences, ddof=1)) * math.sqrt(max(0.0, 1 / pairs.seeds - 1 / last))
    drift = float(stdtrit(pairs.seeds - 1, WITHIN)) * deviation
    low, high = mean - drift, mean + drift
    is_told = low < -half_width or high > half_width or max(0.0, low, -high) + half_width < margin
    return is_told or (fewer and low + half_width < margin)
