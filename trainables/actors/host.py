"""The process that owns a frozen base: it measures before the trials, trains those of a device, and measures after."""

import contextlib
import gc
import importlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import psutil
import ray

from analysis.results.messages import first_line
from trainables.actors.liveness import end_with, end_with_process, ending_if_broken, lives
from trainables.models.device import device_of
from trainables.models.free_memory import give_back, give_large_pieces_back
from trainables.training.checkpoint import LAST, SESSION

if TYPE_CHECKING:  # processes that only name the class, such as proxies, must not load torch
    from analysis.results.trial_config import TrialConfig
    from strategies.measurement import Measured
    from trainables.engine.batcher import BatchedExecutor, PackedSession
    from trainables.learning_rates import Bracket
    from trainables.models.coverage import Coverage
    from trainables.spec import Workload


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class TrialHandle:
    """A trial in a process. Ray may run a trial in several processes, and several trials in one process, in turn.

    Args:
        key: Unique.
        pid: Process id of the trial's process, which is on the host's node.
    """

    key: str
    pid: int


class Host:
    """An actor's class: one per GPU, or one per CPU share of a node. Its methods may be called from many threads.

    Callers pass the workload as a reference in a list, so that only this process unpacks it.

    Args:
        lease: Name of an actor of the search; this process ends once that is gone, since nothing else would end it if
            the search were killed.
        owner: Process id of the only trial that it is for, on this node; it ends with that, too.
    """

    work: ClassVar[tuple[str, ...]] = (
        "engine.batcher",
        "training.adalora",
        "evidence.importance",
        "evidence.measurements",
        "evidence.input_pca",
        "engine.capacity",
        "engine.soundness",
        "postprocess.continuations",
        "postprocess.forms",
        "postprocess.truncation",
    )
    """Modules to import at the start."""

    def __init__(self, lease: str = "", owner: int | None = None) -> None:
        gc.disable()
        for name in self.work:  # in one thread, and before any trial's time is measured
            importlib.import_module(f"trainables.{name}")
        gc.freeze()  # the libraries' objects stay; do not scan them in every collection
        gc.enable()
        self.unpacked: tuple[list[Any], Workload] | None = None
        self.executor: BatchedExecutor | None = None
        self.sessions: dict[str, tuple[str, PackedSession, psutil.Process]] = {}
        self.assignments: dict[str, tuple[int, psutil.Process]] = {}
        self.lock = threading.Lock()
        if lease:
            threading.Thread(target=end_with, args=(lease,), daemon=True).start()
        if owner is not None:
            threading.Thread(target=end_with_process, args=(owner,), daemon=True).start()

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function here, where torch is imported anyway."""
        return function(*arguments)

    def load(self, reference: list[Any]) -> None:
        """Load the base, so that later calls need not wait for it.

        Raises:
            ValueError: It does not load, or is not the one that was planned; later calls raise this, too.
        """
        self._unpack(reference)

    def coverage(self, reference: list[Any]) -> "Coverage":
        """Return what of the base can be adapted.

        Raises:
            ValueError: Its adapters cannot be trusted.
        """
        from trainables.engine.soundness import sound_coverage_of

        return sound_coverage_of(self._unpack(reference))

    def slots_that_fit(self, reference: list[Any]) -> int:
        """Return how many trials fit onto the device together."""
        from trainables.engine.capacity import slots_that_fit

        return slots_that_fit(self._unpack(reference))

    def measure(self, reference: list[Any], measurement: str) -> "Measured":
        """Measure what a strategy names, as ``measurements.measure``; in smaller passes where memory does not suffice.

        Raises:
            ValueError: It cannot be measured, for want of training tokens or of memory for example.
        """
        from trainables.engine.device_errors import out_of_memory
        from trainables.evidence import measurements

        workload = self._unpack(reference)
        rows = measurements.rows_of_pass(workload)
        while True:
            try:
                return measurements.measure(workload, measurement, rows)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if rows == 1:
                    raise ValueError(
                        f"--model {workload.model}: memory does not suffice to measure {measurement} on one row; lower "
                        f"--max-length, or leave out the strategies that score from it ({first_line(error)})"
                    ) from None
            rows //= 2
            device_of(workload.device).release_memory()

    def base_loss(self, reference: list[Any], split: str) -> float:
        """Return the untouched base's mean loss per learned token of a split, in nats; trials wait meanwhile."""
        from trainables.engine.evaluation import base_loss
        from trainables.training.inputs import base_of, splits_of

        workload = self._unpack(reference)
        with self.executor.between_rounds() if self.executor else contextlib.nullcontext():
            return base_loss(base_of(workload), getattr(splits_of(workload), split), workload.micro_batch)

    def learning_rates(self, reference: list[Any], usual: float, seed: int) -> "Bracket":
        """Return what short trials of plain LoRA show of its learning rate, as ``learning_rates.bracketed``."""
        from trainables.learning_rates import bracketed, losses_of, short

        workload = self._unpack(reference)
        brief, executor = short(workload), self._executing(workload)
        return bracketed(usual, brief.steps, lambda rates: losses_of(executor, brief, rates, seed))

    def continued(self, reference: list[Any], adapters: dict[str, Path | None]) -> tuple[list[dict[str, str]], str]:
        """Have the base write on, alone and with adapters, as ``continuations.continued``; trials wait meanwhile."""
        from trainables.postprocess.continuations import continued

        workload = self._unpack(reference)
        with self._between_rounds(workload):
            return continued(workload, adapters)

    def hand_out(self, reference: list[Any], adapter: Path, output: Path) -> float:
        """Write every form of a trained adapter, as ``forms.write_all``, and return its loss; trials wait."""
        from trainables.postprocess.forms import write_all

        workload = self._unpack(reference)
        with self._between_rounds(workload):
            return write_all(workload, adapter, output)

    def shrink_curve(self, reference: list[Any], adapter: Path) -> list[dict[str, Any]]:
        """Return ``truncation.shrink_curve`` of a trained adapter; trials wait meanwhile."""
        from trainables.postprocess.truncation import shrink_curve

        workload = self._unpack(reference)
        with self._between_rounds(workload):
            return shrink_curve(workload, adapter)

    def assign(self, handle: TrialHandle, hosts: int) -> int:
        """Assign a trial to the node's host with the fewest live trials, and return that host's number."""
        process = psutil.Process(handle.pid)
        with self.lock:
            self.assignments = {key: entry for key, entry in self.assignments.items() if lives(entry[1])}
            trials = Counter(number for number, _ in self.assignments.values())
            number = min(range(hosts), key=trials.__getitem__)
            self.assignments[handle.key] = (number, process)
            return number

    def leave(self, key: str) -> None:
        """Remove a trial's assignment."""
        with self.lock:
            self.assignments.pop(key, None)

    @ending_if_broken
    def admit(
        self, handle: TrialHandle, reference: list[Any], name: str, config: "TrialConfig", checkpoint: str | None
    ) -> None:
        """Admit a trial.

        Args:
            handle: The trial's handle.
            reference: Of the workload, the same for all trials.
            name: The trial's name, which is its folder's.
            config: Of the trial.
            checkpoint: Folder to continue from.
        """
        from trainables.spec import TrialSpec

        process, workload = psutil.Process(handle.pid), self._unpack(reference)
        self._release_dead()
        session = self._executing(workload).admit(workload, TrialSpec.from_config(config))
        if checkpoint is not None:
            session.load(Path(checkpoint) / SESSION)
        self.sessions[handle.key] = (name, session, process)

    @ending_if_broken
    def step(self, key: str, again: bool = False) -> dict[str, Any]:
        """Train a trial to its next report, which lists, as JSON, when memory did not suffice.

        Args:
            key: The trial handle's key.
            again: As for ``next_report``.
        """
        from trainables.training.session import next_report

        self._release_dead()
        session = self.sessions[key][1]
        report = next_report(session, again)
        return {**report, "resource_events": json.dumps(session.pack.resource_events)}

    @ending_if_broken
    def save(self, key: str, checkpoint: str) -> None:
        """Write a trial's state."""
        self.sessions[key][1].save(Path(checkpoint) / SESSION)

    @ending_if_broken
    def save_all(self, folder: str) -> None:
        """Write the state of every trial on this host, at its last optimizer step, into ``folder/NAME``."""
        if self.executor is None:
            return
        self._release_dead()  # those may train on another host by now
        with self.executor.between_rounds():
            for name, session, _ in list(self.sessions.values()):
                if session.learner.step and not session.failed:
                    session.save(Path(folder) / name / LAST / SESSION)

    def free(self, key: str) -> None:
        """Release a trial, if it was admitted."""
        if (entry := self.sessions.pop(key, None)) is not None:
            entry[1].close()
        give_back()

    def _release_dead(self) -> None:
        """Release the trials of killed processes: these cannot do it, and Ray starts such a trial again."""
        for key, (_, _, process) in list(self.sessions.items()):
            if not lives(process):
                self.free(key)

    def _unpack(self, reference: list[Any]) -> "Workload":
        """Unpack a workload, and load its base."""
        import torch

        from trainables.training.inputs import base_of

        with self.lock:
            if self.unpacked is None or self.unpacked[0] != reference:
                workload: Workload = ray.get(reference[0])
                torch.set_num_threads(workload.threads)
                base_of(workload)
                if workload.recomputes:
                    give_large_pieces_back()
                self.unpacked = (reference, workload)
            return self.unpacked[1]

    @contextlib.contextmanager
    def _between_rounds(self, workload: "Workload") -> Iterator[None]:
        """Have trials wait, and all memory that they can do without be free."""
        executor = self._executing(workload)
        with executor.between_rounds():
            executor.pack.make_room()
            yield

    def _executing(self, workload: "Workload") -> "BatchedExecutor":
        from trainables.engine.batcher import BatchedExecutor
        from trainables.engine.pack import Pack

        with self.lock:
            if self.executor is None:
                device_of(workload.device).forget_peak()  # that of the measurements before is no trial's
                self.executor = BatchedExecutor(Pack.of(workload, workload.micro_batch))
            return self.executor
