"""Plain LoRA at other sizes: what a doubling of its parameters gains, which difference matters, what others are worth.

All is of paired losses: the same seeds for all sizes and strategies. Sizes are trained at the learning rate that was
best at the whole budget; ``rank_equivalents`` says what follows from that.

The margin. A difference below it does not matter. It is a number in nats per token, or a share of a doubling, as
``0.25doublings``: that share of what a doubling of plain LoRA's parameters gains on the validation split, by the lower
end of the gain's 95 % interval, at least ``LEAST_MARGIN`` and at least one standard error of the difference between the
smallest and the largest size. No test loss is in it, so nothing that a verdict is made of can have chosen it. Where no
other size was trained, it is ``MARGIN`` instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.results.rows import ResultRow
from analysis.results.run_info import DOUBLINGS, MARGIN
from analysis.results.trial_config import Phase, Status
from analysis.stats.rank_equivalents import Losses, Worth, worth
from analysis.stats.statistics import Paired
from analysis.stats.verdicts import params_of

LEAST_MARGIN = 0.0005


@dataclass(frozen=True, slots=True)
class Sizes:
    """Plain LoRA at several sizes, the whole budget's among them.

    Args:
        doublings: Of each size, log2 of its parameters over those with the whole budget; rising.
        runs: Of each size, its runs.
    """

    doublings: tuple[float, ...]
    runs: tuple[tuple[ResultRow, ...], ...]

    @property
    def gain(self) -> Paired:
        """What a doubling gains on the test split, by seed: a mean over all doublings that were tried."""
        return _per_doubling(losses_of(self.runs), self.doublings)

    @property
    def beyond(self) -> Paired | None:
        """What the largest size gains over the whole budget on the test split; None if there is none larger."""
        budget = self.doublings.index(0)
        return losses_of(self.runs).contrast({budget: 1.0, len(self.runs) - 1: -1.0}) if self.doublings[-1] else None

    @property
    def below(self) -> Paired | None:
        """What the smallest size loses against the whole budget on the test split; None if there is none smaller."""
        return losses_of(self.runs).contrast({0: 1.0, self.doublings.index(0): -1.0}) if self.doublings[0] else None

    def are_alike(self, margin: float) -> bool:
        """Return True if the smallest size is shown to lose no more than does not matter."""
        return self.below is not None and self.below.interval is not None and self.below.interval[1] < margin

    def sentences(self, margin: float) -> list[str]:
        """Return what rank is worth here, in words.

        Args:
            margin: Difference that does not matter, in nats per token.
        """
        if (interval := self.gain.interval) is None:
            return []
        said = [f"Doubling plain LoRA's parameters lowers its test loss by {_span(self.gain, interval)}."]
        if self.are_alike(margin):
            times = f"{2 ** self.doublings[0]:.2g}"
            use = "half" if times == "0.5" else f"{times} times"
            said += [f"More rank is worth nothing here: use {use} of it. So no difference can be said in parameters."]
        elif self.beyond and self.beyond.interval and self.beyond.interval[1] < margin:
            said += [
                f"The ceiling is reached: {2 ** self.doublings[-1]:.2g} times the parameters gain nothing that matters."
            ]
        elif interval[0] <= 0:
            said += ["These seeds do not show that more parameters gain anything."]
        return said

    def worth_of(self, runs: Sequence[ResultRow], at_budget: Paired) -> Worth | None:
        """Return what a strategy is worth in parameters; None if that cannot be known.

        Args:
            runs: Its confirmation runs.
            at_budget: Its test losses minus plain LoRA's, as its verdict has them.
        """
        losses = losses_of([*self.runs, runs], comparisons=at_budget.comparisons)
        losses = replace(losses, error=at_budget.error)
        return worth(self.doublings, losses, at_budget) if losses.means.size else None


def sizes_of(rows: Sequence[ResultRow], plain: Sequence[ResultRow]) -> Sizes | None:
    """Return plain LoRA's sizes; None with fewer than two, or fewer than two seeds that all of them have.

    A size of which a run diverged is left out, and so is one whose parameters are no others.

    Args:
        rows: All of a search.
        plain: Plain LoRA's confirmation runs with the whole budget.
    """
    whole, by_size = params_of(plain), {0.0: tuple(plain)}
    others = [row for row in rows if row.phase == Phase.SIZES]
    for share in {row.budget_share for row in others}:
        runs = tuple(row for row in others if row.budget_share == share)
        params = params_of(runs)
        if whole and params and params != whole and all(row.status != Status.DIVERGED for row in runs):
            by_size[math.log2(params / whole)] = runs
    doublings = tuple(sorted(by_size))
    runs_of_sizes = tuple(by_size[size] for size in doublings)
    if len(doublings) < 2 or losses_of(runs_of_sizes).means.shape[1] < 2:
        return None
    return Sizes(doublings, runs_of_sizes)


def margin_in_nats(margin: float | str, sizes: Sizes | None) -> float:
    """Return the difference that does not matter, in nats per token.

    Args:
        margin: In nats per token, or as ``0.25doublings``.
        sizes: Plain LoRA's; None if no other was trained.
    """
    if not isinstance(margin, str):
        return margin
    if sizes is None:
        return MARGIN
    losses = losses_of(sizes.runs, "final_eval_loss")
    if losses.means.shape[1] < 2:
        return MARGIN
    gain = _per_doubling(losses, sizes.doublings)
    low = (gain.interval or (0.0, 0.0))[0]
    apart = losses.contrast({0: 1.0, len(sizes.runs) - 1: -1.0}).differences
    error = float(np.std(apart, ddof=1)) / math.sqrt(len(apart))
    return max(float(margin.removesuffix(DOUBLINGS)) * low, LEAST_MARGIN, error)


def losses_of(arms: Sequence[Sequence[ResultRow]], column: str = "test_loss", comparisons: int = 1) -> Losses:
    """Return the losses of ways to train on the seeds that all of them have; none at all if no seed is shared.

    Args:
        arms: Runs of each.
        column: ``test_loss``, or ``final_eval_loss`` for the validation split.
        comparisons: As of ``Paired``.
    """
    by_seed = [{row.seed: row for row in runs if getattr(row, column) is not None} for runs in arms]
    seeds = [seed for seed in by_seed[0] if all(seed in other for other in by_seed)]
    rows = [[runs[seed] for seed in seeds] for runs in by_seed]
    means = np.array([[getattr(row, column) for row in runs] for runs in rows], dtype=float)
    losses = Losses(means.reshape(len(arms), len(seeds)), comparisons=comparisons)
    documents = [[row.test_documents or () for row in runs] for runs in rows]
    tokens = {tuple(count for _, count in run) for runs in documents for run in runs}
    if column != "test_loss" or len(tokens) != 1 or not (counts := tokens.pop()):
        return losses
    return replace(
        losses,
        documents=counts,
        by_document=np.array([[[loss for loss, _ in run] for run in runs] for runs in documents]),
    )


def _per_doubling(losses: Losses, doublings: Sequence[float]) -> Paired:
    distance = doublings[-1] - doublings[0]
    return losses.contrast({0: 1 / distance, len(doublings) - 1: -1 / distance})


def _span(gain: Paired, interval: tuple[float, float]) -> str:
    return f"{gain.mean or 0.0:.4f} nats per token ({interval[0]:.4f} to {interval[1]:.4f}, {gain.seeds} seeds)"
