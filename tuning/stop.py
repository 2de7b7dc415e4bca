"""How a search ends before its time and in order: by a signal, or for want of disk space."""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune as ray_tune

from tuning.process import SIGNALS

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of somebody's share of it."""


class Stopped(Exception):
    """What a search was busy with was left, since it is to stop."""


class Stop(ray_tune.Stopper):  # type: ignore[misc]
    """What Ray Tune asks, at every turn of its loop, whether the search is to end.

    Args:
        folder: The run's; its disk is watched.
        reserve_bytes: Room that must be left there.

    ``farewell`` is what is done while there still are trials.
    """

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self.folder, self.reserve_bytes = folder, reserve_bytes
        self.signal: int | None = None
        self.shortage: str | None = None
        self.farewell: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Ray pickles this into its snapshot, which is not read."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial for itself."""
        return False

    def stop_all(self) -> bool:
        """Say whether the search is to end now; before it does, at a signal, ``farewell`` is called."""
        if self.signal is not None and self.farewell is not None:
            farewell, self.farewell = self.farewell, None
            farewell()
        return self.signal is not None or self.shortage is not None

    @property
    def status(self) -> int:
        """The process's exit status if a signal stopped the search, else 0."""
        return 0 if self.signal is None else 128 + self.signal

    def check(self) -> None:
        """Leave what the search is busy with if it is to end now.

        Raises:
            Stopped: It is.
        """
        if self.stop_all():
            raise Stopped

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as a wish to stop; a second one ends the process at once."""
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def watch_disk(self) -> None:
        """Stop while there is still room to leave everything in order."""
        free = shutil.disk_usage(self.folder).free
        if free < self.reserve_bytes:
            self.for_want_of_room()

    def for_want_of_room(self, why: str = "") -> None:
        """Stop, since nothing more can be written.

        Args:
            why: What failed, if it was elsewhere than in the run folder.
        """
        free = shutil.disk_usage(self.folder).free
        self.shortage = self.shortage or (
            f"{why or self.folder}: no room left, {_megabytes(free)} free, at least "
            f"{_megabytes(self.reserve_bytes)} needed to go on"
        )

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
