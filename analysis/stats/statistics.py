"""Is a strategy better than plain LoRA? Paired differences, their interval, and one of five answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

Answer = Literal["win", "non-inferior with fewer parameters", "tie", "loss", "cannot tell"]

CONFIDENCE = 0.95
POWER = 0.8
FEWER = 0.05
MOST_SEEDS = 1000
RESAMPLES = 9999


@dataclass(frozen=True, slots=True)
class Paired:
    """What seeds and texts say about the difference between two ways to train.

    Two things are left to chance: the seed, and which texts are in the test split. Each has an error of its own, and
    the interval holds for other seeds and other test texts. What both share is counted twice, so it is rather too wide,
    but for one thing: the error of a few long texts among many short ones is taken for a little better known than it
    is. With four of them and ten seeds, 94 of 100 intervals of 95 % hold.

    Args:
        differences: Test loss of one minus that of the other, a value per seed, in nats per token; negative is better.
        comparisons: How many such questions one search asks; each gets a share of the allowed error (Bonferroni).
        documents: Learned tokens of each document of the test split. Empty if they are unknown: the interval then holds
            for these texts alone.
        by_document: For each seed the difference of each document's summed loss, in their order.

    Source:
        Student (1908) for the interval: at 3 to 10 seeds it holds what it promises, while the bootstrap's percentile
        interval at 3 seeds misses the truth a quarter of the time. Owen, The pigeonhole bootstrap (2007), for the sum
        of both errors where every seed sees every text. Tukey's jackknife, which leaves out a document at a time, for
        the error of texts of unequal length, and Kish's effective number of them for its degrees of freedom. Banerjee,
        Sankhya 22 (1960), for an interval from two errors of different degrees of freedom that is never too narrow;
        Satterthwaite's is, if the error of few seeds is about as large as that of many texts.
        ``python -m benchmarks.power`` tries all of it on simulated searches.
    """

    differences: tuple[float, ...]
    comparisons: int = 1
    documents: tuple[int, ...] = ()
    by_document: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.differences)):
            raise ValueError(f"differences must be finite, got {self.differences}")
        if self.comparisons < 1:
            raise ValueError(f"comparisons must be at least 1, got {self.comparisons}")

    @property
    def seeds(self) -> int:
        """How many pairs there are."""
        return len(self.differences)

    @property
    def mean(self) -> float | None:
        """The mean difference; unknown without a pair."""
        return float(np.mean(self.differences)) if self.differences else None

    @property
    def level(self) -> float:
        """How often each interval is right, so that all comparisons together are right 95 % of the time."""
        return 1 - (1 - CONFIDENCE) / self.comparisons

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the true mean lies; unknown with one pair or one document."""
        if self.mean is None or self.seeds < 2 or len(self.documents) == 1:
            return None
        half = float(self._half((1 + self.level) / 2, self.seeds))
        return self.mean - half, self.mean + half

    def bootstrap(self, seed: int = 0) -> tuple[float, float] | None:
        """Return the percentile bootstrap's interval over seeds, texts left aside; unknown with one pair."""
        if self.seeds < 2:
            return None
        found = stats.bootstrap(
            (self.differences,), np.mean, n_resamples=RESAMPLES, confidence_level=self.level, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        return float(found.low), float(found.high)

    def seeds_needed(self, margin: float, fewer: bool = False) -> int | None:
        """Return about how many seeds would tell, if means and spread stay as they are; None if beyond ``MOST_SEEDS``.

        Enough is: with a probability of 80 % the interval excludes 0, or lies within the margin on both sides; with
        fewer parameters it is also enough that it ends below the margin.
        """
        if self.mean is None or self.interval is None:
            return None
        counts = np.arange(2, MOST_SEEDS + 1)
        half = self._half((1 + self.level) / 2, counts)
        one_side, two_sides = self._half(POWER, counts), self._half((1 + POWER) / 2, counts)
        told = (half + one_side <= abs(self.mean)) | (half + two_sides <= margin - abs(self.mean))
        if fewer:
            told |= half + one_side <= margin - self.mean
        enough = counts[told]
        return int(enough[0]) if len(enough) else None

    def _half(self, quantile: float, seeds: Any) -> Any:
        """Return how far from the mean a quantile of its error lies with as many seeds; of each count of them."""
        seeds = np.asarray(seeds, dtype=float)
        squares = stats.t.ppf(quantile, seeds - 1) ** 2 * np.var(self.differences, ddof=1) / seeds
        if self.documents:
            tokens = np.array(self.documents, dtype=float)
            effective = tokens.sum() ** 2 / (tokens**2).sum()
            squares = squares + stats.t.ppf(quantile, max(1.0, effective - 1)) ** 2 * self._of_texts(tokens, seeds)
        return np.sqrt(squares)

    def _of_texts(self, tokens: np.ndarray, seeds: Any) -> Any:
        """Return the variance of the mean that comes from the choice of texts, with as many seeds.

        A part of it is that texts differ for each seed in another way, which more seeds make smaller.
        """
        sums = np.array(self.by_document)
        apart = sums - sums.mean(axis=0)
        of_one = float(np.mean([_jackknife(seed, tokens) for seed in apart])) * self.seeds / (self.seeds - 1)
        lasting = max(0.0, _jackknife(sums.mean(axis=0), tokens) - of_one / self.seeds)
        return lasting + of_one / seeds


def _jackknife(sums: np.ndarray, tokens: np.ndarray) -> float:
    """Return the variance of the mean per token, were other documents drawn; from each one's sum and tokens."""
    count, mean = len(tokens), sums.sum() / tokens.sum()
    without = (sums.sum() - sums) / (tokens.sum() - tokens)
    return float((count - 1) / count * ((without - mean) ** 2).sum())


def judge(pairs: Paired, margin: float, fewer: bool = False) -> Answer:
    """Return the verdict on a strategy against plain LoRA.

    Args:
        pairs: The strategy's test loss minus plain LoRA's.
        margin: Difference that does not matter, in nats per token.
        fewer: Whether the strategy is known to have at least 5 % fewer trainable parameters than plain LoRA.
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


def has_fewer(params: int | None, others: int | None) -> bool:
    """Return True if one is known to be smaller by more than the rounding of ranks explains."""
    return params is not None and others is not None and params <= (1 - FEWER) * others


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation; unknown for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def span(interval: tuple[float, float] | None) -> str:
    """Return an interval as tables show it; empty if it is unknown."""
    return "" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
