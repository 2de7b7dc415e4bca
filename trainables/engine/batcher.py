"""A trial in a pack, behind the same protocol as a trial alone; many threads may share one pack."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from trainables.data.splits import Splits, mean_loss
from trainables.engine.pack import Pack, Slot
from trainables.spec import TrialSpec, Workload
from trainables.training.session import StepReport
from trainables.training.trial_state import Learner


@dataclass(slots=True)
class StepRequest:
    """A trial's request to be trained up to a step, and then evaluated.

    Args:
        until: Optimizer step to reach.
        split: Split to evaluate on.
        losses: The loss of each example, once evaluated.
        error: Why it failed.
    """

    until: int
    split: str
    losses: list[float] | None = None
    error: BaseException | None = None


class BatchedExecutor:
    """Carries out the requests of all trials of a pack together.

    Rounds are done by one thread of its own: on a GPU, libraries make a handle and take memory for each thread that
    asks them for something, and cannot do so while a graph is captured. A trial without a request, because its report
    is being judged, takes no part.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self._condition = threading.Condition()
        self._working, self._leading, self._pauses = False, False, 0
        self._thread: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_doing, args=(self._thread,), name="rounds", daemon=True).start()
        weakref.finalize(self, self._thread.put, None)
        self._requests: dict[Slot, StepRequest] = {}
        self.rounds, self.slot_rounds = 0, 0

    @contextmanager
    def between_rounds(self) -> Iterator[None]:
        """Pause training and evaluation: wait for the current round, and hold back the next ones."""
        with self._condition:
            self._pauses += 1
            try:
                self._condition.wait_for(lambda: not self._working)
                yield
            finally:
                self._pauses -= 1
                self._condition.notify_all()

    def admit(self, workload: Workload, spec: TrialSpec) -> "PackedSession":
        """Admit a trial between two rounds.

        Raises:
            AllocationMismatch: The adapter differs from the plan.
        """
        with self.between_rounds():
            return PackedSession(self, self.pack.admit(workload, spec))

    def fulfil(self, slot: Slot, request: StepRequest) -> list[float]:
        """Return the losses once the request is done.

        Raises:
            Diverged: The trial's loss or gradient is not finite.
            RuntimeError: The trial has left.
        """
        with self._condition:
            self._requests[slot] = request
            try:
                while slot in self._requests:
                    self._lead()
                    self._condition.wait()
            except BaseException:  # whoever interrupts a program finds it at rest
                self._requests.pop(slot, None)
                self._condition.wait_for(lambda: not self._working)
                raise
        if request.error is not None:
            raise request.error
        if request.losses is None:
            raise RuntimeError("a request was dropped without a loss")
        return request.losses

    def _lead(self) -> None:
        """Have the thread do rounds, unless it does or they are held back."""
        if not self._leading and not self._pauses:
            self._leading = True
            self._thread.put(self._rounds)

    def _rounds(self) -> None:
        """Do rounds until nothing is requested any more, or they are held back."""
        with self._condition:
            while self._requests and not self._pauses:
                self._round()
            self._leading = False
            self._condition.notify_all()  # whoever came meanwhile asks anew

    def _round(self) -> None:
        """Do one step for all requests, with the lock released; it is held on entry and on exit."""
        self._working, requests = True, dict(self._requests)
        self._condition.release()
        try:
            done = self._work(requests)
        except BaseException as error:  # is raised where it is waited for
            done = list(requests)
            for request in requests.values():
                request.error = error
        finally:
            self._condition.acquire()
            self._working = False
            self._condition.notify_all()
        for slot in done:
            self._requests.pop(slot, None)  # nobody may wait for it any more

    def _work(self, requests: dict[Slot, StepRequest]) -> list[Slot]:
        training = [s for s, request in requests.items() if not s.failure and s.learner.step < request.until]
        if training:
            self.pack.step(training)
            self.rounds, self.slot_rounds = self.rounds + 1, self.slot_rounds + len(training)
        done = []
        for split in sorted({request.split for request in requests.values()}):
            due = [
                slot
                for slot, request in requests.items()
                if request.split == split and (slot.failure or slot.learner.step >= request.until)
            ]
            healthy = [slot for slot in due if not slot.failure]
            for slot, losses in zip(healthy, self.pack.evaluate(healthy, split) if healthy else [], strict=True):
                requests[slot].losses = losses
            for slot in due:
                requests[slot].error = slot.failure
            done += due
        return done


def _doing(queue: "SimpleQueue[Callable[[], None] | None]") -> None:
    """Do what comes, until None does; nothing is held between two of them."""
    while (work := queue.get()) is not None:
        work()
        del work


class PackedSession:
    """One trial of a pack; a ``Session``."""

    def __init__(self, executor: BatchedExecutor, slot: Slot) -> None:
        self._executor, self._slot = executor, slot

    @property
    def learner(self) -> Learner:
        """The trial's own state."""
        return self._slot.learner

    @property
    def splits(self) -> Splits:
        """The examples."""
        return self.pack.splits

    @property
    def failed(self) -> bool:
        """Whether it may not go on; its state is then not to be saved."""
        return self._slot.failure is not None

    @property
    def pack(self) -> Pack:
        """The pack that it trains in."""
        return self._executor.pack

    def train(self, steps: int) -> StepReport:
        """Train up to ``steps`` more steps, together with the pack, and evaluate."""
        until = min(self.learner.step + steps, self.learner.workload.steps)
        losses = self._executor.fulfil(self._slot, StepRequest(until, "validation"))
        with self._executor.between_rounds():
            return self.learner.report(mean_loss(self.splits.validation, losses))

    def test_losses(self) -> list[float]:
        """Return the summed loss of each example of the test split."""
        return self._executor.fulfil(self._slot, StepRequest(self.learner.step, "test"))

    def save(self, folder: Path) -> None:
        """Write a checkpoint between two rounds; its ``adapter`` folder is an ordinary PEFT adapter.

        A neighbour that trains, comes or goes moves the rows of all in the pack's store, of which this writes views.
        """
        with self._executor.between_rounds():
            self.learner.save(folder)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint; a trial that cannot has left the pack."""
        try:
            with self._executor.between_rounds():
                self.learner.load(folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the pack between two rounds; a thread that waits for the trial's report gets an error."""
        with self._executor.between_rounds():
            self._slot.failure = self._slot.failure or RuntimeError("the trial has left the pack")
            self.pack.forget(self._slot)
