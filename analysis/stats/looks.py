"""Looking at confirmation runs more than once: what each look may err, so that all of them do in 5 % of searches.

A search with ``--confirm-seeds auto`` is judged after 5, 10, 20 and 40 seeds and stops when nothing is left to be told.
Who looks four times, each time with 5 % to err, errs in more than 5 % of searches. So the looks share these 5 %.

    Symbols
        n_k   seeds at look k = 1..K (``trial_config.LOOKS``);  m  comparisons of the search
    What may be erred up to look k, of all (``spent``); Lan and DeMets (Biometrika 70, 1983), in their form after Pocock
        A(t) = ln(1 + (e - 1) t),  t = n_k / n_K
    Level of an interval at look k (``error_at``); Bonferroni over looks, as over comparisons
        1 - 0.05 (A(n_k / n_K) - A(n_(k-1) / n_K)) / m

Intervals of all looks hold together 95 times in 100 (repeated confidence intervals; Jennison and Turnbull, J. R. Stat.
Soc. B 51, 1989). So the one that is shown is right whatever made the search stop: an answer, no hope, or want of time.
Their quantiles are Student's, as without looking. Bonferroni's inequality asks nothing of how looks depend on each
other, which nobody can say for few seeds and for documents that all seeds share; bounds for known variances would be
narrower. ``python -m benchmarks.power --looks`` checks it on simulated searches.
"""

import math
from collections.abc import Sequence

from analysis.results.rows import ResultRow
from analysis.stats.statistics import CONFIDENCE, Paired


def spent(share: float) -> float:
    """Return the share of the allowed error that may be spent when a share of the seeds, 0 to 1, is there."""
    return math.log1p((math.e - 1) * share)


def error_at(seeds: int, looks: Sequence[int]) -> float:
    """Return the error that all comparisons of one look are allowed together.

    Args:
        seeds: Seeds that are there; between two looks they are on their way to the second.
        looks: Numbers of seeds at which is looked, rising; without any there is one look alone.
    """
    if not looks:
        return 1 - CONFIDENCE
    number = min(sum(look < seeds for look in looks), len(looks) - 1)
    before = looks[number - 1] / looks[-1] if number else 0.0
    return (1 - CONFIDENCE) * (spent(looks[number] / looks[-1]) - spent(before))


def error_of(runs: Sequence[ResultRow]) -> float:
    """Return the error that confirmation runs of one strategy are judged with: they say which looks there are."""
    return error_at(len({run.seed for run in runs}), looks_of(runs))


def looks_of(runs: Sequence[ResultRow]) -> tuple[int, ...]:
    """Return the numbers of seeds at which confirmation runs are looked at; empty if they are looked at once."""
    return next((run.trial_config.looks for run in runs if run.trial_config.looks), ())


def levels(pairs: Sequence[Paired]) -> str:
    """Return the confidence levels of intervals in words: one, or from where to where they go."""
    low, high = (f"{100 * level:.4g}" for level in (min(p.level for p in pairs), max(p.level for p in pairs)))
    return f"{low} %" if low == high else f"{low} to {high} %"
