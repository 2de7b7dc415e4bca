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
    the interval holds for other seeds and other texts. What both share is counted twice: it is rather too wide.

    Args:
        differences: Test loss of one minus that of the other, a value per seed, in nats per token; negative is better.
        comparisons: How many such questions one search asks; each gets a share of the allowed error (Bonferroni).
        documents: Of each document of the test split, the difference of its summed loss, a mean over seeds, and its
            learned tokens. Empty if that is unknown: the interval then holds for these texts alone.

    Source:
        Student (1908) for the interval: at 3 to 10 seeds it holds what it promises, while the bootstrap's percentile
        interval at 3 seeds misses the truth a quarter of the time. Owen, The pigeonhole bootstrap (2007), for the sum
        of both errors where every seed sees every text. Tukey's jackknife, which leaves out a document at a time, for
        the error of texts of unequal length; Kish's effective number of them and Satterthwaite for the degrees of
        freedom. ``python -m benchmarks.power`` tries all of it on simulated searches.
    """

    differences: tuple[float, ...]
    comparisons: int = 1
    documents: tuple[tuple[float, int], ...] = ()

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
        error, freedom = self._error(self.seeds)
        if not error:
            return self.mean, self.mean
        low, high = stats.t.interval(self.level, freedom, self.mean, error)
        return float(low), float(high)

    def bootstrap(self, seed: int = 0) -> tuple[float, float] | None:
        """Return the percentile bootstrap's interval over seeds, texts left aside; unknown with one pair."""
        if self.seeds < 2:
            return None
        found = stats.bootstrap(
            (self.differences,), np.mean, n_resamples=RESAMPLES, confidence_level=self.level, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        return float(found.low), float(found.high)

    def seeds_needed(self, margin: float) -> int | None:
        """Return about how many seeds would tell, if means and spread stay as they are; None if beyond ``MOST_SEEDS``.

        Enough is: with a probability of 80 % the interval excludes 0, or lies within the margin on both sides.
        """
        if self.mean is None or self.interval is None:
            return None
        counts = np.arange(2, MOST_SEEDS + 1)
        error, freedom = self._error(counts)
        half = stats.t.ppf((1 + self.level) / 2, freedom)
        win = (half + stats.t.ppf(POWER, freedom)) * error <= abs(self.mean)
        tie = (half + stats.t.ppf((1 + POWER) / 2, freedom)) * error <= margin - abs(self.mean)
        enough = counts[win | tie]
        return int(enough[0]) if len(enough) else None

    def _error(self, seeds: Any) -> tuple[Any, Any]:
        """Return the standard error of the mean with as many seeds, and its degrees of freedom; of each count."""
        seeds = np.asarray(seeds, dtype=float)
        parts = [(np.var(self.differences, ddof=1) / seeds, seeds - 1)]
        if self.documents:
            parts.append(self._of_texts())
        variance = sum(part for part, _ in parts)
        shares = sum(part**2 / freedom for part, freedom in parts)
        return np.sqrt(variance), np.divide(variance**2, shares, out=np.ones_like(variance), where=shares > 0)

    def _of_texts(self) -> tuple[Any, Any]:
        """Return the variance of the mean that comes from the choice of texts, and its degrees of freedom."""
        sums, tokens = np.array(self.documents, dtype=float).T
        mean, count = sums.sum() / tokens.sum(), len(tokens)
        without = (sums.sum() - sums) / (tokens.sum() - tokens)
        effective = tokens.sum() ** 2 / (tokens**2).sum()
        return float((count - 1) / count * ((without - mean) ** 2).sum()), max(1.0, float(effective) - 1)


def judge(pairs: Paired, margin: float, params: int, plain_params: int) -> Answer:
    """Return the verdict on a strategy against plain LoRA.

    Args:
        pairs: The strategy's test loss minus plain LoRA's.
        margin: Difference that does not matter, in nats per token.
        params: Trainable parameters of the strategy.
        plain_params: Those of plain LoRA.
    """
    interval = pairs.interval
    if interval is None:
        return "cannot tell"
    low, high = interval
    if high < 0:
        return "win"
    if high < margin and params <= (1 - FEWER) * plain_params:
        return "non-inferior with fewer parameters"
    if low > 0:
        return "loss"
    if -margin < low and high < margin:
        return "tie"
    return "cannot tell"


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation; unknown for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
