"""The process that owns a frozen base: it measures before the trials, trains those of a device, and measures after."""

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import psutil
import ray

from trainables.training.checkpoint import LAST, SESSION

if TYPE_CHECKING:  # whoever only names the class, as proxies do, must not load torch
    from strategies.base import Evidence
    from trainables.engine.batcher import BatchedExecutor, PackedSession
    from trainables.evidence.components import Components
    from trainables.spec import Workload

LEASE_SECONDS = 10.0
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Use:
    """A trial in the hands of a process. Ray may put a trial into several hands, and several into one's, in turn.

    Args:
        key: No other use has it.
        pid: Of the process, which is on the host's node.
    """

    key: str
    pid: int


def _ending_if_broken(method: Callable[P, R]) -> Callable[P, R]:
    """Have the process end once the device is found broken: Ray sees that, and trials go on in a new host."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except RuntimeError as error:
            from trainables.engine.device_errors import broken

            if broken(error):
                reason = str(error).partition("\n")[0]
                print(f"This host ends, for its device is broken: {reason}", file=sys.stderr, flush=True)
                os._exit(1)
            raise

    return guarded


class Host:
    """An actor's class: one per GPU, or one per CPU share of a node. Its methods may be called from many threads.

    Whoever calls says which workload is meant, by a reference in a list, so that only this process unpacks it.

    Args:
        lease: Name of an actor of the search; this process ends once that is gone, since nobody else would end it if
            the search were killed.
    """

    work: ClassVar[tuple[str, ...]] = (
        "engine.batcher",
        "evidence.importance",
        "evidence.input_pca",
        "engine.capacity",
        "postprocess.truncation",
    )
    """Modules that it works with."""

    def __init__(self, lease: str = "") -> None:
        gc.disable()
        for name in self.work:  # in one thread, and at a time that is nobody's yet
            importlib.import_module(f"trainables.{name}")
        gc.freeze()  # what libraries made stays, and need not be looked through again and again
        gc.enable()
        self.unpacked: tuple[list[Any], Workload] | None = None
        self.executor: BatchedExecutor | None = None
        self.sessions: dict[str, tuple[str, PackedSession, psutil.Process]] = {}
        self.guests: dict[str, tuple[int, psutil.Process]] = {}
        self.lock = threading.Lock()
        if lease:
            threading.Thread(target=_end_with, args=(lease,), daemon=True).start()

    def load(self, workload: list[Any]) -> None:
        """Load the base, so that whoever comes next need not wait for it.

        Raises:
            ValueError: It does not load, or is not the one that was planned; whoever comes next hears that, too.
        """
        self._known(workload)

    def slots_that_fit(self, workload: list[Any]) -> int:
        """Return how many trials fit onto the device together."""
        from trainables.engine.capacity import slots_that_fit

        return slots_that_fit(self._known(workload))

    def evidence(self, workload: list[Any]) -> "Evidence":
        """Measure what strategies score from."""
        from trainables.evidence import importance

        return importance.measure(self._known(workload))

    def components(self, workload: list[Any]) -> "Components":
        """Measure the principal components of the sites' inputs.

        Raises:
            ValueError: There are too few training tokens for them.
        """
        from trainables.evidence import input_pca

        return input_pca.measure(self._known(workload))

    def shrink_curve(
        self, workload: list[Any], ranks: Mapping[str, int], alphas: Mapping[str, float], folder: Path
    ) -> list[dict[str, Any]]:
        """Return ``shrink.shrink_curve`` of a trained adapter; what trains meanwhile waits."""
        from trainables.postprocess.truncation import shrink_curve

        known = self._known(workload)
        with self._executing(known).between_rounds():
            return shrink_curve(known, ranks, alphas, folder)

    def assign(self, use: Use, hosts: int) -> int:
        """Return the number of the node's host with the fewest trials that live, and count this one there."""
        process = psutil.Process(use.pid)
        with self.lock:
            self.guests = {key: guest for key, guest in self.guests.items() if lives(guest[1])}
            trials = Counter(number for number, _ in self.guests.values())
            number = min(range(hosts), key=trials.__getitem__)
            self.guests[use.key] = (number, process)
            return number

    def leave(self, key: str) -> None:
        """Count a trial no more."""
        with self.lock:
            self.guests.pop(key, None)

    @_ending_if_broken
    def admit(self, use: Use, workload: list[Any], name: str, config: dict[str, Any], checkpoint: str | None) -> None:
        """Let a trial in.

        Args:
            use: Of the trial.
            workload: The same for all trials.
            name: Of the trial, as its folder's.
            config: Ray's.
            checkpoint: Folder to continue from.
        """
        from trainables.spec import TrialSpec

        process, known = psutil.Process(use.pid), self._known(workload)
        self._release_dead()
        session = self._executing(known).admit(known, TrialSpec.from_config(config))
        if checkpoint is not None:
            session.load(Path(checkpoint) / SESSION)
        self.sessions[use.key] = (name, session, process)

    @_ending_if_broken
    def step(self, key: str, again: bool = False) -> dict[str, Any]:
        """Train a trial to its next report; the report tells, as JSON, of memory that did not suffice.

        Args:
            key: Of the trial.
            again: As for ``next_report``.
        """
        from trainables.training.session import next_report

        self._release_dead()
        session = self.sessions[key][1]
        report = next_report(session, again)
        return {**report, "resource_events": json.dumps(session.pack.resource_events)}

    @_ending_if_broken
    def save(self, key: str, checkpoint: str) -> None:
        """Write a trial's state."""
        self.sessions[key][1].save(Path(checkpoint) / SESSION)

    @_ending_if_broken
    def save_all(self, folder: str) -> None:
        """Write the state of every trial that trains here, at its last optimizer step, into ``folder/NAME``."""
        if self.executor is None:
            return
        self._release_dead()  # which may train elsewhere by now
        with self.executor.between_rounds():
            for name, session, _ in list(self.sessions.values()):
                if session.learner.step and not session.failed:
                    session.save(Path(folder) / name / LAST / SESSION)

    def free(self, key: str) -> None:
        """Forget a trial, if it was let in."""
        if (known := self.sessions.pop(key, None)) is not None:
            known[1].close()
        _give_memory_back()

    def _release_dead(self) -> None:
        """Forget the trials of processes that were killed; these cannot do it, and Ray begins such a trial again."""
        for key, (_, _, process) in list(self.sessions.items()):
            if not lives(process):
                self.free(key)

    def _known(self, reference: list[Any]) -> "Workload":
        """Unpack a workload, and load its base."""
        import torch

        from trainables.training.inputs import base_of

        with self.lock:
            if self.unpacked is None or self.unpacked[0] != reference:
                workload: Workload = ray.get(reference[0])
                torch.set_num_threads(workload.threads)
                base_of(workload)
                self.unpacked = (reference, workload)
            return self.unpacked[1]

    def _executing(self, workload: "Workload") -> "BatchedExecutor":
        import torch

        from trainables.engine.batcher import BatchedExecutor
        from trainables.engine.pack import Pack

        with self.lock:
            if self.executor is None:
                if workload.device == "cuda":  # what was measured before is no trial's
                    torch.cuda.reset_peak_memory_stats()
                self.executor = BatchedExecutor(Pack.of(workload, workload.micro_batch))
            return self.executor


class Lease:
    """An actor's class; it does nothing but live as long as the search that made it."""


def _give_memory_back() -> None:
    """Have the C library return what is free: on CPU it would keep a GB, in pieces between what is in use."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _end_with(lease: str) -> None:
    """End this process once an actor is gone; as long as Ray cannot tell, it goes on."""
    try:
        while True:
            time.sleep(LEASE_SECONDS)
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError, OSError):
                ray.get_actor(lease)
    except ValueError:
        os._exit(0)
    except Exception:  # with nobody to watch, this process would outlive its search
        traceback.print_exc()
        os._exit(1)


def lives(process: psutil.Process) -> bool:
    """Return True if a process is there; one that has taken its number is another, and a zombie is none."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OSError):  # it cannot be seen, which says nothing
        return True
