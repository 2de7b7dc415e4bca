"""The process that owns a frozen base and trains the trials of a device together."""

import json
import os
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:  # whoever only names the class, as proxies do, must not load torch
    from trainables.packed import PackedSession
    from trainables.spec import Workload

FOLDER, CHECKPOINT = "session", "checkpoint_last"
LEASE_SECONDS = 10.0


class Host:
    """An actor's class: one per GPU, or one per CPU share of a node. Its methods may be called from many threads.

    Args:
        workload: What all trials share, as a reference in a list, so that only this process unpacks it.
        lease: Name of an actor of the search; this process ends once that is gone, since nobody else would end it if
            the search were killed.
    """

    def __init__(self, workload: list[Any], lease: str = "") -> None:
        import torch

        from trainables.pack import Pack
        from trainables.packed import Conductor

        self.workload: Workload = ray.get(workload[0])
        torch.set_num_threads(self.workload.threads)
        pack = Pack.of(self.workload, self.workload.micro_batch)
        self.conductor = Conductor(pack)
        self.sessions: dict[str, tuple[str, PackedSession]] = {}
        self.guests: dict[int, int] = {}
        self.lock = threading.Lock()
        if lease:
            threading.Thread(target=_end_with, args=(lease,), daemon=True).start()

    def assign(self, hosts: int) -> int:
        """Return the number of the node's host with the fewest trials, and count one more there."""
        with self.lock:
            number = min(range(hosts), key=lambda number: self.guests.get(number, 0))
            self.guests[number] = self.guests.get(number, 0) + 1
            return number

    def leave(self, number: int) -> None:
        """Count one trial less at a host."""
        with self.lock:
            self.guests[number] -= 1

    def admit(self, name: str, config: dict[str, Any], checkpoint: str | None) -> str:
        """Let a trial in and return its key, which no other use of the same trial shares.

        Args:
            name: Of the trial, as its folder's.
            config: Ray's.
            checkpoint: Folder to continue from.
        """
        from trainables.spec import TrialSpec

        session = self.conductor.admit(self.workload, TrialSpec.from_config(config))
        if checkpoint is not None:
            session.load(Path(checkpoint) / FOLDER)
        key = uuid.uuid4().hex
        self.sessions[key] = (name, session)
        return key

    def step(self, key: str, again: bool = False) -> dict[str, Any]:
        """Train a trial to its next report; the report tells, as JSON, of memory that did not suffice.

        Args:
            key: Of the trial.
            again: As for ``next_report``.
        """
        from trainables.session import next_report

        report = next_report(self.sessions[key][1], again)
        return {**report, "resource_events": json.dumps(self.conductor.pack.resource_events)}

    def save(self, key: str, checkpoint: str) -> None:
        """Write a trial's state."""
        self.sessions[key][1].save(Path(checkpoint) / FOLDER)

    def save_all(self, folder: str) -> None:
        """Write the state of every trial that is here, at its last optimizer step, into ``folder/NAME``."""
        with self.conductor.between_rounds():
            for name, session in list(self.sessions.values()):
                if session.learner.step:
                    session.save(Path(folder) / name / CHECKPOINT / FOLDER)

    def free(self, key: str) -> None:
        """Forget a trial."""
        self.sessions.pop(key)[1].close()


class Lease:
    """An actor's class; it does nothing but live as long as the search that made it."""


def _end_with(lease: str) -> None:
    while True:
        time.sleep(LEASE_SECONDS)
        try:
            ray.get_actor(lease)
        except ValueError:
            os._exit(0)
