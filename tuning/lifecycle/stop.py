"""How a search ends before its time and in order: by a signal, for want of disk space, or since a disk or Ray fails."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune as ray_tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.error import TuneError

from analysis.results.messages import first_line
from tuning.lifecycle.output import FULL as FULL
from tuning.lifecycle.process import command_line, heard

FULL_IN_WORDS = tuple(map(os.strerror, FULL))
LONGEST_LINE = 4096


OUTSIDE = (OSError, RayError, TuneError)
"""What a disk or Ray raises, and Ray whatever its loop meets."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a search cannot go on, for a reason that is not its own.

    Args:
        text: In one line, without what to do about it.
        disk_is_full: Whether a disk is full.
    """

    text: str
    disk_is_full: bool


class Stopped(Exception):
    """What a search was busy with was left, since it is to stop."""


class Stop(ray_tune.Stopper):  # type: ignore[misc]
    """What Ray Tune asks, at every turn of its loop, whether the search is to end.

    Args:
        folder: The run's; its disk is watched.
        reserve_bytes: Room that must be left there.

    ``before_it`` is what is done while there still are trials; ``shortage`` and ``failure`` say, in words, why nothing
    more can be done: for want of room, or for another reason that is not the search's own.
    """

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self.folder, self.reserve_bytes = folder, reserve_bytes
        self.signal: int | None = None
        self.shortage: str | None = None
        self.failure: str | None = None
        self.before_it: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Ray pickles this into its snapshot, which is not read."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial for itself."""
        return False

    def stop_all(self) -> bool:
        """Return True if the search is to end now; before it does, at a signal, ``before_it`` is called."""
        if self.signal is not None and self.before_it is not None:
            last, self.before_it = self.before_it, None
            last()
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
        """Take SIGINT, SIGTERM and SIGHUP as a wish to stop; a second one ends the process, or what it does, at once.

        Only the main thread hears signals; a search on another one does nothing about them.
        """
        here = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._hear) for number in (heard() if here else ())}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def watch_disk(self) -> None:
        """Stop while there is still room to leave everything in order."""
        try:
            if shutil.disk_usage(self.folder).free < self.reserve_bytes:
                self.for_lack_of_disk_space()
        except OSError as error:
            self.because_of(error)

    def because_of(self, error: Exception) -> bool:
        """Stop if an error is a disk's or Ray's, and say whether the search is to stop."""
        if (cause := cause_of(error, str(self.folder))) is not None:
            if cause.disk_is_full:
                self.for_lack_of_disk_space(cause.text)
            else:
                self.failure = self.failure or cause.text
        return self.is_broken

    def for_lack_of_disk_space(self, why: str = "") -> None:
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
            if command_line() is None:  # the process is a program's, which has more to do
                raise KeyboardInterrupt
            os._exit(128 + number)
        self.signal = number


def tells_of_full_disk(text: str) -> bool:
    """Return True if a text, such as a traceback from another process, is of a disk that is full."""
    return any(words in text for words in FULL_IN_WORDS)


def cause_of(error: Exception, where: str) -> Cause | None:
    """Return what of a disk's or of Ray's has led to an error; None if nothing has.

    Ray Tune raises whatever its loop meets as a ``TuneError``, from which only the context leads to what it was.

    Args:
        error: One of ``OUTSIDE``.
        where: What is said if the error names no file.
    """
    chain: list[BaseException] = [error]
    if isinstance(error, TuneError):
        chain, where = [*_chain(error)], f"{where}, or Ray's temporary folder"
    origin = next(filter(_is_of_disk_or_ray, reversed(chain)), None)
    disk_is_full = any(_is_full(error) for error in chain)
    if origin is None and not disk_is_full and not (isinstance(error, TuneError) and len(chain) == 1):
        return None
    return Cause(_told(origin or error, where), disk_is_full)


def _is_of_disk_or_ray(error: BaseException) -> bool:
    if isinstance(error, RayTaskError):  # what a process of ours has raised
        return isinstance(error.cause, OSError | RayError)
    return isinstance(error, OSError | RayError)


def _is_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in FULL) or tells_of_full_disk(str(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, the origin last; what a mistake of ours came upon is not its origin."""
    while error is not None:
        yield error
        error = error.__cause__ or (error.__context__ if isinstance(error, OUTSIDE) else None)


def _told(error: BaseException, where: str) -> str:
    """Return what happened to which file, or to Ray, in one line."""
    first = first_line(error, LONGEST_LINE)
    if isinstance(error, OSError) and not isinstance(error, RayError):
        return f"{error.filename or where}: {error.strerror or first}"
    return f"Ray cannot go on ({type(error).__name__}: {first})"


def _free(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return f"{_megabytes(shutil.disk_usage(folder).free)} free, "
    return ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
