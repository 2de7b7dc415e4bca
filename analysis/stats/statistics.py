"""Is a strategy better than plain LoRA? Paired differences, their interval, and an answer.

Two ways to train, x and y, are compared over S seeds on a test split of D documents. Two samples are random: the seeds,
and the documents in the split. Losses are in nats.

    Symbols
        s = 1..S       seed;  i = 1..D  document of the test split
        n_i            learned tokens of document i (``documents``);  N = sum_i n_i
        x_s, y_s       test losses per learned token at seed s;  x_si, y_si  their sums over document i
        z_si           = x_si - y_si (``by_document``)
        m              comparisons of the search (``comparisons``);  M  margin, the difference that does not matter
        P = 0.8        ``POWER``;  t(q, f)  quantile q of Student's t with f degrees of freedom

    Paired difference (``differences``, ``mean``); d_s = sum_i z_si / N where x_s and y_s are means over these documents
        d_s = x_s - y_s
        d   = mean_s d_s

    Level of each interval (``level``); Bonferroni
        1 - a,  a = e / m,  e = 0.05 (``error``), or the part of it that one look of several has (``looks``)

    Variance of d from the choice of seeds, for S' seeds, with S' - 1 degrees of freedom; Student (1908)
        V_seed(S') = sum_s (d_s - d)^2 / (S - 1) / S'

    Variance of sum_i v_i / N from the choice of documents; delete-one jackknife around the full mean, Tukey
        J(v) = (D - 1) / D * sum_i (r_i - r)^2,  r = sum_i v_i / N,  r_i = (sum_j v_j - v_i) / (N - n_i)

    Variance of d from the choice of documents, for S' seeds: a part W at one seed that differs from seed to seed, and a
    part L that all seeds share; with f degrees of freedom from Kish's effective number of documents n_eff
        W          = sum_s J(z_s - zbar) / (S - 1),  z_s = (z_s1, ..., z_sD),  zbar = mean_s z_s
        L          = max(0, J(zbar) - W / S)
        V_text(S') = L + W / S'
        f          = max(1, n_eff - 1),  n_eff = N^2 / sum_i n_i^2

    Half-width at quantile q for S' seeds: both variances add up, since every seed sees every document (Owen, The
    pigeonhole bootstrap, 2007), each with its own t (Banerjee, Sankhya 22, 1960); without ``documents`` the first alone
        h(q, S') = sqrt(t(q, S' - 1)^2 * V_seed(S') + t(q, f)^2 * V_text(S'))

    Interval (``interval``); None if S < 2 or D = 1
        d - h(1 - a/2, S)  to  d + h(1 - a/2, S)

    Answer (``judge``), the first that holds for the interval from low to high; "fewer": p_x <= 0.95 p_y parameters
        win                                 high < 0
        non-inferior with fewer parameters  fewer and high < M
        loss                                low > 0
        tie                                 -M < low and high < M
        cannot tell                         otherwise

    Needed seeds (``seeds_needed``): the smallest n of 2..1000 for which one of these holds, with d and all variances as
    estimated, so that the answer is given with a probability of about P
        win or loss    h(1 - a/2, n) + h(P, n) <= |d|
        tie            h(1 - a/2, n) + h((1 + P)/2, n) <= M - |d|
        non-inferior   h(1 - a/2, n) + h(P, n) <= M - d, if fewer

    Least difference that S seeds would have shown (``visible``), and seeds that show a difference D (``seeds_to_see``):
    the smallest n of 2..1000 for which the same holds
        h(1 - a/2, S) + h(P, S);  h(1 - a/2, n) + h(P, n) <= D

    Bootstrap (``bootstrap``), for comparison only: quantiles a/2 and 1 - a/2 of the mean of S differences, drawn from
    the d_s with replacement 9999 times

W / S is part of V_seed as well as of V_text, so the interval is rather too wide. One thing makes it too narrow: the
variance from a few long documents among many short ones has fewer degrees of freedom than f. With four long ones and
ten seeds, 94 of 100 intervals of 95 % hold. ``python -m benchmarks.power`` checks all of this on simulated searches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

Answer = Literal["win", "non-inferior with fewer parameters", "tie", "loss", "cannot tell"]
Said = Answer | Literal["ahead, by too little to matter", "not found: the search was too short"]
"""What a verdict says: an answer, or how it reads where more is known than the interval."""

CONFIDENCE = 0.95
POWER = 0.8
FEWER = 0.05
MOST_SEEDS = 1000
RESAMPLES = 9999


@dataclass(frozen=True, slots=True)
class Paired:
    """Paired test losses of two ways to train; the interval of their mean difference is for other seeds and documents.

    Args:
        differences: Test loss of one minus that of the other, a value per seed, in nats per token; negative is better.
        comparisons: Number of comparisons in the search; each gets an equal share of the allowed error.
        documents: Learned tokens of each document of the test split. Empty if they are unknown: the interval then holds
            for these documents alone.
        by_document: For each seed the difference of each document's summed loss, in the order of ``documents``.
        error: Allowed to all comparisons together; less than 5 % where other looks share it, see ``looks``.

    Source:
        The module's docstring has the formulas. Student's t covers the truth as often as it promises at 3 to 10 seeds,
        while the bootstrap's percentile interval at 3 seeds misses it a quarter of the time. Banerjee's interval from
        two variances of different degrees of freedom is never too narrow; Satterthwaite's is, if the variance from few
        seeds is about as large as that from many documents.
    """

    differences: tuple[float, ...]
    comparisons: int = 1
    documents: tuple[int, ...] = ()
    by_document: tuple[tuple[float, ...], ...] = ()
    error: float = 1 - CONFIDENCE

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.differences)):
            raise ValueError(f"differences must be finite, got {self.differences}")
        if self.comparisons < 1:
            raise ValueError(f"comparisons must be at least 1, got {self.comparisons}")

    @property
    def seeds(self) -> int:
        """Number of pairs."""
        return len(self.differences)

    @property
    def mean(self) -> float | None:
        """The mean difference; None without a pair."""
        return float(np.mean(self.differences)) if self.differences else None

    @property
    def level(self) -> float:
        """Confidence level of each interval; all comparisons together then have ``1 - error`` (Bonferroni)."""
        return 1 - self.error / self.comparisons

    @property
    def interval(self) -> tuple[float, float] | None:
        """Confidence interval of the mean difference; None with fewer than two pairs or with one document."""
        if self.mean is None or self.seeds < 2 or len(self.documents) == 1:
            return None
        half_width = self.half_width(self.seeds)
        return self.mean - half_width, self.mean + half_width

    def half_width(self, seeds: int) -> float:
        """Return half of the width that the interval of so many seeds would have, with all variances as estimated."""
        return float(self._half_width((1 + self.level) / 2, seeds))

    def bootstrap(self, seed: int = 0) -> tuple[float, float] | None:
        """Return the percentile bootstrap's interval over seeds alone; None with fewer than two pairs."""
        if self.seeds < 2:
            return None
        from scipy import stats  # here, since it takes a second and only a verdict needs it

        interval = stats.bootstrap(
            (self.differences,), np.mean, n_resamples=RESAMPLES, confidence_level=self.level, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        return float(interval.low), float(interval.high)

    def seeds_needed(self, margin: float, fewer: bool = False) -> int | None:
        """Return about how many seeds would give an answer; None if more than ``MOST_SEEDS``.

        Args:
            margin: As for ``judge``.
            fewer: As for ``judge``.
        """
        if self.mean is None or self.interval is None:
            return None
        counts = np.arange(2, MOST_SEEDS + 1)
        shown, half_width = self._shown(counts), self._half_width((1 + self.level) / 2, counts)
        two_sided = self._half_width((1 + POWER) / 2, counts)
        decides = (shown <= abs(self.mean)) | (half_width + two_sided <= margin - abs(self.mean))
        if fewer:
            decides |= shown <= margin - self.mean
        enough_counts = counts[decides]
        return int(enough_counts[0]) if len(enough_counts) else None

    @property
    def visible(self) -> float | None:
        """The least true difference that as many seeds would have shown, as a win or a loss, with ``POWER``."""
        return None if self.interval is None else float(self._shown(self.seeds))

    def seeds_to_see(self, difference: float) -> int | None:
        """Return about how many seeds would show a true difference; None if unknown or more than ``MOST_SEEDS``."""
        if self.interval is None:
            return None
        counts = np.arange(2, MOST_SEEDS + 1)
        enough_counts = counts[self._shown(counts) <= difference]
        return int(enough_counts[0]) if len(enough_counts) else None

    def _shown(self, seeds: Any) -> Any:
        return self._half_width((1 + self.level) / 2, seeds) + self._half_width(POWER, seeds)

    def _half_width(self, quantile: float, seeds: Any) -> Any:
        """Return the half-width at a quantile for a number of seeds, or for each of an array of numbers."""
        seeds = np.asarray(seeds, dtype=float)
        squared = stdtrit(seeds - 1, quantile) ** 2 * np.var(self.differences, ddof=1) / seeds
        if self.documents:
            tokens = np.array(self.documents, dtype=float)
            n_eff = tokens.sum() ** 2 / (tokens**2).sum()
            squared = squared + stdtrit(max(1.0, n_eff - 1), quantile) ** 2 * self._text_variance(tokens, seeds)
        return np.sqrt(squared)

    def _text_variance(self, tokens: np.ndarray, seeds: Any) -> Any:
        """Return the variance of the mean difference from the choice of documents, for as many seeds."""
        sums = np.array(self.by_document)
        deviations = sums - sums.mean(axis=0)
        seed_part = float(np.mean([_jackknife(row, tokens) for row in deviations])) * self.seeds / (self.seeds - 1)
        shared_part = max(0.0, _jackknife(sums.mean(axis=0), tokens) - seed_part / self.seeds)
        return shared_part + seed_part / seeds


def _jackknife(sums: np.ndarray, tokens: np.ndarray) -> float:
    """Return the delete-one jackknife's variance of the mean per token, from each document's sum and tokens."""
    count, mean = len(tokens), sums.sum() / tokens.sum()
    means_without_one = (sums.sum() - sums) / (tokens.sum() - tokens)
    return float((count - 1) / count * ((means_without_one - mean) ** 2).sum())


def judge(pairs: Paired, margin: float, fewer: bool = False) -> Answer:
    """Return the verdict on a strategy against plain LoRA.

    Args:
        pairs: The strategy's test loss minus plain LoRA's.
        margin: Difference that does not matter, in nats per token.
        fewer: True if the strategy has at least 5 % fewer trainable parameters than plain LoRA, as ``has_fewer`` says.
    """
    interval = pairs.interval
    if interval is None:
        return "cannot tell"
    low, high = interval
    if high < 0:
        return "win"
    if fewer and high < margin:
        return "non-inferior with fewer parameters"
    if low > 0:
        return "loss"
    if -margin < low and high < margin:
        return "tie"
    return "cannot tell"


def has_fewer(params: int | None, reference: int | None) -> bool:
    """Return True if both are known and ``params`` is at least 5 % less: more than the rounding of ranks explains."""
    return params is not None and reference is not None and params <= (1 - FEWER) * reference


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def span(interval: tuple[float, float] | None) -> str:
    """Return an interval as tables show it; empty if it is None."""
    return "" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
