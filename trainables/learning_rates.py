"""Where plain LoRA's learning rate lies: short trials at rates that lie far apart."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from strategies.baseline import Baseline
from trainables.spec import TrialSpec, Workload
from trainables.training.session import Diverged

if TYPE_CHECKING:
    from trainables.engine.batcher import BatchedExecutor, PackedSession

STEP = 4.0
"""One rate over the next lower one."""
TO_EACH_SIDE = 3
"""Rates below and above the usual one that are tried at first."""
SHARE, FEWEST_STEPS = 0.25, 8
"""What of a trial's steps a short one has, and how many at least, where a trial has as many."""
LIKELY_RUNS = (2 * TO_EACH_SIDE + 1) * SHARE
"""About how many trials in full all short ones cost together."""
LOWEST, HIGHEST = 1e-8, 10.0
"""Rates beyond which nothing is tried."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """What short trials of plain LoRA have shown.

    Args:
        losses: (peak learning rate, loss on the validation split in nats per token) of each, rates rising; infinite
            where it diverged.
        steps: Optimizer steps of each.
    """

    losses: Sequence[tuple[float, float]]
    steps: int

    @property
    def rows(self) -> tuple[dict[str, float | None], ...]:
        """As ``RunInfo.bracket``."""
        return tuple(
            {"learning_rate": rate, "steps": self.steps, "eval_loss": loss if math.isfinite(loss) else None}
            for rate, loss in self.losses
        )

    @property
    def best(self) -> float | None:
        """The rate at the lowest point of a parabola through the best and its neighbours, over the logarithm of rates.

        Where a neighbour is missing or diverged it is the best that was tried; None if all diverged.
        """
        rates, losses = zip(*self.losses, strict=True)
        lowest = min(range(len(losses)), key=losses.__getitem__)
        around = losses[max(0, lowest - 1) : lowest + 2]
        if not math.isfinite(losses[lowest]):
            return None
        if len(around) < 3 or not all(map(math.isfinite, around)):
            return float(rates[lowest])
        below, least, above = around
        bend = below - 2 * least + above
        return float(rates[lowest] * STEP ** ((below - above) / (2 * bend))) if bend > 0 else float(rates[lowest])


def bracketed(usual: float, steps: int, losses_at: Callable[[Sequence[float]], Sequence[float]]) -> Bracket:
    """Try rates around the usual one, and beyond while the best is the lowest or the highest of them.

    Args:
        usual: Learning rate in the middle.
        steps: Of each short trial.
        losses_at: Trains at some rates, and returns the loss of each.
    """
    rates = [usual * STEP**power for power in range(-TO_EACH_SIDE, TO_EACH_SIDE + 1)]
    tried = dict(zip(rates, losses_at(rates), strict=True))
    while True:
        rates, best = sorted(tried), min(tried, key=lambda rate: tried[rate])
        beyond = {rates[0]: rates[0] / STEP, rates[-1]: rates[-1] * STEP}.get(best, 0.0)
        if not (math.isfinite(tried[best]) and LOWEST <= beyond <= HIGHEST):
            return Bracket([(rate, tried[rate]) for rate in rates], steps)
        tried[beyond] = losses_at([beyond])[0]


def short(workload: Workload) -> Workload:
    """Return a workload of short trials, which warm up and cool down in their fewer steps."""
    steps = min(workload.steps, max(FEWEST_STEPS, math.ceil(SHARE * workload.steps)))
    return replace(workload, epochs=steps * workload.batch_size / workload.data.train_examples, reports=1)


def losses_of(executor: "BatchedExecutor", workload: Workload, rates: Sequence[float], seed: int) -> list[float]:
    """Train plain LoRA at some learning rates, as many together as trials share a base.

    Args:
        executor: Trains them.
        workload: As ``short`` returns it.
        rates: Peak learning rates.
        seed: Of initial weights and order, the same for all.

    Returns:
        The loss of each on the validation split, in nats per token; infinite where it diverged.
    """
    losses: list[float] = []
    for first in range(0, len(rates), workload.pack_size):
        specs = [TrialSpec(Baseline.name, Baseline(), rate, seed=seed) for rate in rates[first:][: workload.pack_size]]
        sessions = [executor.admit(workload, spec) for spec in specs]
        try:
            with ThreadPoolExecutor(len(sessions)) as pool:
                losses += pool.map(_trained, sessions)
        finally:
            for session in sessions:
                session.close()
    return losses


def _trained(session: "PackedSession") -> float:
    try:
        loss = session.train(session.learner.workload.steps).eval_loss
    except Diverged:
        return math.inf
    return loss if math.isfinite(loss) else math.inf
