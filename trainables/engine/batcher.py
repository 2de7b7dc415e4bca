"""A trial in a pack, behind the same protocol as a trial alone; any number of threads may drive one pack."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainables.data.splits import Splits, mean_loss
from trainables.engine.pack import Pack, Slot
from trainables.spec import TrialSpec, Workload
from trainables.training.session import StepReport
from trainables.training.trial_state import Learner


@dataclass(slots=True)
class Demand:
    """What a trial wants: to be trained up to a step, and then measured.

    Args:
        until: Optimizer step to reach.
        split: Split to measure on.
        losses: The measured loss of each example, once they are there.
        error: What prevented it.
    """

    until: int
    split: str
    losses: list[float] | None = None
    error: Exception | None = None


class Conductor:
    """Carries out the demands of all trials of a pack together.

    There is no thread of its own: of the threads that wait for their trials, one does the next round for all. A trial
    that has no demand, because its report is being judged, takes no part.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self._turn = threading.Condition()
        self._working, self._visitors = False, 0
        self._demands: dict[Slot, Demand] = {}
        self.rounds, self.slot_rounds = 0, 0

    @contextmanager
    def between_rounds(self) -> Iterator[None]:
        """Within, no trial is trained or measured; the round that is being done is waited for, and no further one."""
        with self._turn:
            self._visitors += 1
            try:
                self._turn.wait_for(lambda: not self._working)
                yield
            finally:
                self._visitors -= 1
                self._turn.notify_all()

    def admit(self, workload: Workload, spec: TrialSpec) -> "PackedSession":
        """Let a trial in between two rounds.

        Raises:
            AllocationMismatch: What was built is not what was planned.
        """
        with self.between_rounds():
            return PackedSession(self, self.pack.admit(workload, spec))

    def fulfil(self, slot: Slot, demand: Demand) -> list[float]:
        """Return the measured losses once the demand is met.

        Raises:
            Diverged: The trial's loss or gradient is not finite.
            RuntimeError: The trial has left.
        """
        with self._turn:
            self._demands[slot] = demand
            while slot in self._demands:
                if self._working or self._visitors:
                    self._turn.wait()
                else:
                    self._round()
        if demand.error is not None:
            raise demand.error
        if demand.losses is None:
            raise RuntimeError("a demand was dropped without a loss")
        return demand.losses

    def _round(self) -> None:
        """Do one step for all who want one, with the lock released; called and left with the lock held."""
        self._working, demands = True, dict(self._demands)
        self._turn.release()
        try:
            met = self._work(demands)
        except Exception as error:
            met = list(demands)
            for demand in demands.values():
                demand.error = error
        finally:
            self._turn.acquire()
            self._working = False
            self._turn.notify_all()
        for slot in met:
            del self._demands[slot]

    def _work(self, demands: dict[Slot, Demand]) -> list[Slot]:
        training = [s for s, demand in demands.items() if not s.failure and s.learner.step < demand.until]
        if training:
            self.pack.step(training)
            self.rounds, self.slot_rounds = self.rounds + 1, self.slot_rounds + len(training)
        met = []
        for split in sorted({demand.split for demand in demands.values()}):
            due = [
                slot
                for slot, demand in demands.items()
                if demand.split == split and (slot.failure or slot.learner.step >= demand.until)
            ]
            healthy = [slot for slot in due if not slot.failure]
            for slot, losses in zip(healthy, self.pack.evaluate(healthy, split) if healthy else [], strict=True):
                demands[slot].losses = losses
            for slot in due:
                demands[slot].error = slot.failure
            met += due
        return met


class PackedSession:
    """One trial of a pack; a ``Session``."""

    def __init__(self, conductor: Conductor, slot: Slot) -> None:
        self._conductor, self._slot = conductor, slot

    @property
    def learner(self) -> Learner:
        """What belongs to the trial alone."""
        return self._slot.learner

    @property
    def splits(self) -> Splits:
        """The examples."""
        return self.pack.splits

    @property
    def failed(self) -> bool:
        """Whether it may not go on; what it has then is not to be kept."""
        return self._slot.failure is not None

    @property
    def pack(self) -> Pack:
        """In whose company it trains."""
        return self._conductor.pack

    def train(self, steps: int) -> StepReport:
        """Train up to ``steps`` more steps, in company, and evaluate."""
        until = min(self.learner.step + steps, self.learner.workload.steps)
        losses = self._conductor.fulfil(self._slot, Demand(until, "validation"))
        return self.learner.report(mean_loss(self.splits.validation, losses))

    def test_losses(self) -> list[float]:
        """Return the summed loss of each example of the test split."""
        return self._conductor.fulfil(self._slot, Demand(self.learner.step, "test"))

    def save(self, folder: Path) -> None:
        """Write a checkpoint; its ``adapter`` folder is an ordinary PEFT adapter."""
        self.learner.save(folder)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.learner.load(folder)

    def close(self) -> None:
        """Leave the pack between two rounds; whoever waits for a report of the trial hears it."""
        with self._conductor.between_rounds():
            self._slot.failure = self._slot.failure or RuntimeError("the trial has left the pack")
            self.pack.forget(self._slot)
