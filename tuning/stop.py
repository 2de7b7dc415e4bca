"""How a search ends before its time and in order: by a signal, for want of disk space, or since a disk or Ray fails."""

import contextlib
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
from ray.exceptions import RayError
from ray.tune.error import TuneError

from tuning.process import SIGNALS

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of somebody's share of it."""
FULL_IN_WORDS = tuple(map(os.strerror, FULL))


class Stopped(Exception):
    """What a search was busy with was left, since it is to stop."""


class Stop(ray_tune.Stopper):  # type: ignore[misc]
    """What Ray Tune asks, at every turn of its loop, whether the search is to end.

    Args:
        folder: The run's; its disk is watched.
        reserve_bytes: Room that must be left there.

    ``farewell`` is what is done while there still are trials; ``shortage`` and ``failure`` say, in words, why nothing
    more can be done: for want of room, or for another reason that is not the search's own.
    """

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self.folder, self.reserve_bytes = folder, reserve_bytes
        self.signal: int | None = None
        self.shortage: str | None = None
        self.failure: str | None = None
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
        return self.signal is not None or self.is_broken

    @property
    def is_broken(self) -> bool:
        """Whether nothing more can be noted, so that what happens from now on has not happened."""
        return self.shortage is not None or self.failure is not None

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
        try:
            if shutil.disk_usage(self.folder).free < self.reserve_bytes:
                self.for_want_of_room()
        except OSError as error:
            self.because_of(error)

    def because_of(self, error: Exception) -> bool:
        """Stop if an error is a disk's or Ray's, and say whether it is.

        Ray Tune raises whatever its loop meets as a ``TuneError``, from which only the context leads to what it was.
        """
        chain: list[BaseException] = [error]
        where = str(self.folder)
        if isinstance(error, TuneError):
            chain, where = [*_chain(error)], f"{where}, or Ray's temporary folder"
        origin = next((found for found in reversed(chain) if isinstance(found, OSError | RayError)), None)
        if any(_is_full(found) for found in chain):
            self.for_want_of_room(_told(origin or error, where))
        elif origin is not None or len(chain) == 1:
            self.failure = self.failure or _told(origin or error, where)
        return self.is_broken

    def for_want_of_room(self, why: str = "") -> None:
        """Stop, since nothing more can be written.

        Args:
            why: What failed, if it was elsewhere than in the run folder.
        """
        self.shortage = self.shortage or (
            f"{why or self.folder}: no room left, {_free(self.folder)}"
            f"at least {_megabytes(self.reserve_bytes)} needed to go on"
        )

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number


def is_want_of_room(text: str) -> bool:
    """Say whether a text, such as a traceback from another process, is of a disk that is full."""
    return any(words in text for words in FULL_IN_WORDS)


def _is_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in FULL) or is_want_of_room(str(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, the origin last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _told(error: BaseException, where: str) -> str:
    """Return what happened to which file, or to Ray, in one line."""
    if isinstance(error, OSError) and not isinstance(error, RayError) and error.strerror:
        return f"{error.filename or where}: {error.strerror}"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"Ray cannot go on ({type(error).__name__}: {first})"


def _free(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return f"{_megabytes(shutil.disk_usage(folder).free)} free, "
    return ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
