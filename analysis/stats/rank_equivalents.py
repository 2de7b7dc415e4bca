"""What a difference in loss is worth in parameters: plain LoRA of which size would have the same loss?

Plain LoRA is trained at several sizes beside a strategy, all from the same seeds. Losses are in nats per token.

    Symbols
        x              log2 of a size over plain LoRA's with the whole budget, in doublings; x_1 < ... < x_K are trained
        f(x)           plain LoRA's expected loss at that size;  g  the strategy's
        w              what the strategy is worth: f(w) = g;  it is worth 2^w times the parameters
        T(v)           the interval (``Paired``) of a contrast v of paired losses: its mean over seeds and documents

    Assumed, and nothing else about the form of f
        falling        more parameters never raise the loss:  f(x) >= f(x_k) for x <= x_k
        bending        no doubling gains more than the one before: between neighbours f lies below the straight line
                       through both, and above that through the left one and its left neighbour, continued

    A size x is too small for the strategy if T ends below 0 for one of these
        g - f(x_k) for an x_k >= x;  g - line(x) for the continued line, left of x_2 for that from the right
    and too large if T begins above 0 for one of these
        g - f(x_k) for an x_k <= x;  g - line(x) for the line between the neighbours of x

    Interval of w (``Worth``): from the first x that is not too small to the last that is not too large. Sizes that were
    trained are asked one after the other until one is not, beginning with the whole budget's where that is too small
    (too large) and at the outer end else, so that asking several is no more likely to err. An end that is the smallest
    or the largest size of all is open: nothing is said of sizes that were not trained.
    Estimate: where the straight lines through the mean losses, made to fall (pool adjacent violators), have g's mean.

That is Fieller's way to an interval of a ratio: a size stays as long as no test of it speaks against it. So neither a
slope near 0 nor few seeds make it too narrow, where dividing by the slope would. The noise of the curve's own points is
in every contrast, and what seeds and documents shift in all runs alike falls out of it. Plain LoRA is one rank at all
matrices here, whatever a verdict is against. Where it is against that, the contrast with the whole budget is the
verdict's own, so *win* is the same as an interval above 1; against plain LoRA on a set of matrices it is not.

What it does not know. All sizes are trained at the learning rate that was best for the whole budget: if another size
would be better at another, the curve is too steep there, and a gain looks smaller than it is, or too flat, and it looks
larger. That rate, and the strategy's configuration, were chosen on the validation split, so the test split has no part
in either. Each interval is at the level of the verdict's, which are right together; several tests bound one end, which
costs up to a percent of that. A search that is judged several times errs more often, as its verdict does.

Source: Fieller, J. R. Stat. Soc. B 16 (1954). ``tests/analysis/test_rank_equivalents.py`` simulates curves.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from analysis.stats.statistics import CONFIDENCE, Paired

HALVINGS = 12
"""Bisections of an interval between two sizes: to a thousandth of a doubling where they are four apart."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of several ways to train, called arms, on the same seeds and documents.

    Args:
        means: Loss per token, of shape (arms, seeds).
        documents: Learned tokens of each document; empty if they are unknown.
        by_document: Summed loss of each document, of shape (arms, seeds, documents); empty like ``documents``.
        comparisons: As of ``Paired``.
        error: As of ``Paired``.
    """

    means: np.ndarray
    documents: tuple[int, ...] = ()
    by_document: np.ndarray | None = None
    comparisons: int = 1
    error: float = 1 - CONFIDENCE

    def contrast(self, weights: Mapping[int, float]) -> Paired:
        """Return a weighted sum of arms, by seed.

        Args:
            weights: Number of an arm -> its weight.
        """
        vector = np.zeros(len(self.means))
        for arm, weight in weights.items():
            vector[arm] += weight
        differences = tuple((vector @ self.means).tolist())
        if self.by_document is None or not self.documents:
            return Paired(differences, self.comparisons, error=self.error)
        by_document = np.tensordot(vector, self.by_document, 1).tolist()
        return Paired(differences, self.comparisons, self.documents, tuple(map(tuple, by_document)), self.error)


@dataclass(frozen=True, slots=True)
class Worth:
    """How many times plain LoRA's parameters a strategy is worth.

    Args:
        times: The estimate; None where it lies beyond the sizes that were trained.
        low: Where the interval begins; None if below ``smallest``.
        high: Where it ends; None if above ``largest``.
        smallest: The smallest size that was trained, over the whole budget's.
        largest: The largest.
        seeds: Number of seeds that all of them share.
    """

    times: float | None
    low: float | None
    high: float | None
    smallest: float
    largest: float
    seeds: int

    @property
    def sentence(self) -> str:
        """The same in words, without a full stop."""
        return self.in_words()

    def in_words(self, on: str = "") -> str:
        """Return the sentence.

        Args:
            on: `` on all matrices``, where that is to be said of plain LoRA.
        """
        parameters = f"times the parameters{on and f' of plain LoRA{on}'}"
        if self.low is None and self.high is None:
            span = f"{_number(self.smallest)} to {_number(self.largest)} times"
            return f"these seeds cannot tell what it is worth: plain LoRA{on} of {span} the parameters may be as good"
        if self.times is None and self.low == self.largest:
            return f"worth more than {_number(self.largest)} {parameters}"
        if self.times is None and self.high == self.smallest:
            return f"worth less than {_number(self.smallest)} {parameters}"
        low = f"less than {_number(self.smallest)}" if self.low is None else _number(self.low)
        high = f"more than {_number(self.largest)}" if self.high is None else _number(self.high)
        if self.times is not None:
            return f"worth {_number(self.times)} {parameters} ({low} to {high})"
        return f"worth {high if self.high is None else low} {parameters} ({low} to {high})"


def _number(times: float) -> str:
    return f"{times:.2g}"


def worth(doublings: Sequence[float], losses: Losses, at_budget: Paired) -> Worth | None:
    """Return what a strategy is worth; None with fewer than two sizes or seeds, or with one document.

    Args:
        doublings: Of each size of plain LoRA, rising; 0 is the whole budget's and is among them.
        losses: Of plain LoRA at each of these sizes, then of the strategy.
        at_budget: The strategy's losses minus plain LoRA's with the whole budget, as its verdict has them.
    """
    if len(doublings) < 2 or at_budget.interval is None or losses.contrast({0: 1.0}).interval is None:
        return None
    tests = _Tests(tuple(doublings), losses, at_budget)
    low, high = sorted((tests.lowest(), tests.highest()))
    first, last = doublings[0], doublings[-1]
    estimate = _crossing(doublings, losses)
    if estimate is not None:
        estimate = min(max(estimate, low), high)
    return Worth(
        times=None if estimate is None else 2.0**estimate,
        low=None if low <= first else 2.0**low,
        high=None if high >= last else 2.0**high,
        smallest=2.0**first,
        largest=2.0**last,
        seeds=losses.means.shape[1],
    )


@dataclass(frozen=True, slots=True)
class _Tests:
    """Whether a strategy is shown to be better or worse than plain LoRA of a size."""

    doublings: tuple[float, ...]
    losses: Losses
    at_budget: Paired

    def lowest(self) -> float:
        """Return the first size, in doublings, that is not shown to be too small; the last if all are."""
        sizes, budget = self.doublings, self.doublings.index(0)
        begin = budget if self._ends(self.at_budget)[1] < 0 else 0
        number = next((n for n in range(begin, len(sizes)) if self._ends(self._node(n))[1] >= 0), len(sizes))
        if number in {0, len(sizes)}:
            return sizes[0 if number == 0 else -1]
        size, end = sizes[number - 1], sizes[number]
        other = number - 2 if number > 1 else number  # the neighbour on one side alone: with both, two might err
        if other == len(sizes) - 1 or not self._is_better(other, size):
            return size
        return _last(functools.partial(self._is_better, other), size, end)

    def highest(self) -> float:
        """Return the last size, in doublings, that is not shown to be too large; the first if all are."""
        sizes, budget = self.doublings, self.doublings.index(0)
        begin = budget if self._ends(self.at_budget)[0] > 0 else len(sizes) - 1
        number = next((n for n in range(begin, -1, -1) if self._ends(self._node(n))[0] <= 0), -1)
        if number in {-1, len(sizes) - 1}:
            return sizes[0 if number == -1 else -1]
        return _last(functools.partial(self._is_not_worse, number), sizes[number], sizes[number + 1])

    def _is_better(self, number: int, size: float) -> bool:
        return self._ends(self._line(number, size))[1] < 0

    def _is_not_worse(self, number: int, size: float) -> bool:
        return self._ends(self._line(number, size))[0] <= 0

    def _node(self, number: int) -> Paired:
        """Return the strategy's losses minus plain LoRA's of a size that was trained."""
        if self.doublings[number] == 0:
            return self.at_budget
        return self.losses.contrast({len(self.doublings): 1.0, number: -1.0})

    def _line(self, number: int, size: float) -> Paired:
        """Return the strategy's losses minus those that a size has on the line through a trained one and the next."""
        left, right = self.doublings[number], self.doublings[number + 1]
        share = (size - left) / (right - left)
        return self.losses.contrast({len(self.doublings): 1.0, number: share - 1.0, number + 1: -share})

    @staticmethod
    def _ends(pairs: Paired) -> tuple[float, float]:
        return pairs.interval or (-math.inf, math.inf)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest size up to which something holds that holds at ``low`` and ends to hold once."""
    if holds(high):
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def falling(values: Sequence[float]) -> list[float]:
    """Return the nearest values that do not rise, in least squares: neighbours that do are pooled.

    Source:
        Ayer et al., Ann. Math. Stat. 26 (1955), pool adjacent violators.
    """
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) < np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [float(np.mean(block)) for block in blocks for _ in block]


def _crossing(doublings: Sequence[float], losses: Losses) -> float | None:
    """Return the size at which the falling curve has the strategy's mean; None beyond its ends.

    Where it has it at several sizes, the one nearest to the whole budget.
    """
    *sizes, wanted = losses.means.mean(axis=1).tolist()
    curve = falling(sizes)
    if not curve[-1] <= wanted <= curve[0]:
        return None
    crossings = []
    for (left, above), (right, below) in pairwise(zip(doublings, curve, strict=True)):
        if below <= wanted <= above:
            is_flat = above == below
            crossings.append(
                min(max(left, 0.0), right) if is_flat else left + (above - wanted) / (above - below) * (right - left)
            )
    return min(crossings, key=abs)
