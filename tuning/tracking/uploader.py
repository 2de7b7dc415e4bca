"""Takes events without ever blocking or raising; a thread carries them on."""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import BaseFileLock, Timeout

from analysis.results.confinement import leads_out
from analysis.results.messages import first_line, masked
from tuning.tracking.outbox import Event, Outbox, lock
from tuning.tracking.run_history import INTERRUPTED, RunHistory

log = logging.getLogger(__name__)
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
LAST_WAIT_SECONDS, LAST_ATTEMPTS = 0.5, 2
PATIENCE, LEAST_PATIENCE_SECONDS = 0.04, 2.0
FILES = ("artifact", "table")
"""Kinds of events that name a file."""
FLOWING_SECONDS, MOST_SECONDS = 0.5, 60.0


class Unreachable(Exception):
    """MLflow did not answer as it should, or not at all, and may do so later; what it raised is the cause."""


class Carrier(Protocol):
    """Applies events somewhere. ``apply`` and ``reconcile`` may raise anything."""

    def apply(self, event: Event) -> None:
        """Carry out an event; twice is as good as once."""
        ...

    def refusal(self, error: Exception) -> str | None:
        """Return why what ``apply`` raised will not pass with time; None if it may."""
        ...

    def reconcile(self) -> None:
        """Mend what an answer that was lost may have left."""
        ...


class Sink:
    """Keeps events in an outbox, and carries them while the search goes on.

    Args:
        outbox: Where events lie until they are carried; one that has events is continued.
        connect: Makes what carries them; may raise, and is then tried again.
    """

    def __init__(self, outbox: Outbox, connect: Callable[[], Carrier]) -> None:
        self.outbox, self.connect = outbox, connect
        self.history = RunHistory(outbox.events())
        self.wake, self.closing, self.abandoned = threading.Event(), threading.Event(), threading.Event()
        self.began = self.moved = time.monotonic()
        self.reported, self.is_away = set[str](), False
        self.thread = threading.Thread(target=self._run, name="mlflow-sink", daemon=True)
        self.thread.start()

    def put(self, kind: str, run: str, **given: Any) -> None:
        """Put an event into the outbox, unless it is there already."""
        if kind in FILES:
            given["modified"] = _modified(Path(given["path"]))
            given["path"] = _from_folder(self.outbox.run_dir, Path(given["path"]))
        event = self.history.news({"kind": kind, "run": run, **given})
        if event is None:
            return
        try:
            self.outbox.append(event)
        except OSError as error:
            self.outbox.warn(f"{self.outbox.path}: {kind} of {run} is lost to MLflow ({error})")
            log.warning("%s of %s is lost to MLflow (%s)", kind, run, error)
            return
        self.history.take(event)
        self.wake.set()

    def end_open_runs(self, time_ms: int, but: str | None = None) -> None:
        """End every run that has no end as interrupted, children first."""
        for run in [*self.history.open()]:
            if run != but:
                self.put("end", run, status="KILLED", tags={"status": INTERRUPTED}, time_ms=time_ms)

    def close(
        self,
        search_seconds: float | None = None,
        most_seconds: float = MOST_SECONDS,
        check: Callable[[], None] = lambda: None,
    ) -> bool:
        """Wait for the rest and say whether everything arrived.

        A server gets 4 % of the search's own time, and more only while events flow; a local store gets all there is.

        Args:
            search_seconds: How long the search took; default is since this sink was made.
            most_seconds: How long to wait in any case.
            check: Called again and again; raises if there is no time for that. What waits can be closed again.
        """
        began = time.monotonic()
        searched = began - self.began if search_seconds is None else search_seconds
        local = self.outbox.target.uri.startswith("sqlite:")
        most = began + most_seconds
        patient = most if local else min(most, began + max(LEAST_PATIENCE_SECONDS, PATIENCE * searched))
        self.closing.set()
        self.wake.set()
        while self.thread.is_alive() and (
            (now := time.monotonic()) < patient or now < min(most, self.moved + FLOWING_SECONDS)
        ):
            check()
            self.thread.join(0.05)
        self.abandoned.set()
        lacking = self.outbox.remaining()
        log.info("MLflow lacks %d events after %.1f s of waiting", lacking, time.monotonic() - began)
        return lacking == 0

    def _run(self) -> None:
        """Carry until closed. The lock is held to the end, so that no replay carries the same at the same time."""
        held = lock(self.outbox.run_dir)
        try:
            self._carry_until_closed(held)
        finally:
            held.release()

    def _carry_until_closed(self, held: BaseFileLock) -> None:
        carrier, failures, ever_failed = None, 0, False
        while not self.abandoned.is_set():
            self.wake.wait()
            self.wake.clear()
            closing = self.closing.is_set()
            try:
                if not held.is_locked:
                    held.acquire()
                with reaching():
                    carrier = carrier or self.connect()
                for event, end in self.outbox.waiting():
                    deliver(self.outbox, carrier, event, end)
                    self.moved, failures = time.monotonic(), 0
                    self._note_return()
                    if self.abandoned.is_set():
                        return
                if closing and ever_failed:
                    with reaching():
                        carrier.reconcile()
            except Exception as error:  # MLflow and the disk may do anything; the search never notices
                carrier, failures, ever_failed = None, failures + 1, True
                if failures >= LAST_ATTEMPTS:  # one failure may be a connection that the server closed meanwhile
                    self._report_once(error)
                if closing and failures >= LAST_ATTEMPTS:
                    return
                self._pause(failures)
                self.wake.set()
            else:
                failures = 0
                self._note_return()
                if closing:
                    return

    def _pause(self, failures: int) -> None:
        if self.closing.is_set():
            time.sleep(LAST_WAIT_SECONDS)
        self.closing.wait(min(FIRST_WAIT_SECONDS * 2 ** min(failures - 1, 9), LONGEST_WAIT_SECONDS))

    def _report_once(self, error: Exception) -> None:
        if self.abandoned.is_set():  # nobody waits for it any more, and the search may have said its last
            return
        if isinstance(error, Unreachable):
            culprit = f"MLflow at {masked(self.outbox.target.uri)}"
            line = f"{culprit} cannot be reached ({brief(error)})"
        else:
            culprit = str(getattr(error, "filename", None) or self.outbox.path)
            line = f"{culprit}: {brief(error)}"
        if not self.is_away:
            self.is_away = True
            log.warning("%s", line)
        if culprit not in self.reported:
            self.reported.add(culprit)
            self.outbox.warn(f"{line}; the search goes on")

    def _note_return(self) -> None:
        if self.is_away:
            self.is_away = False
            log.info("MLflow at %s can be reached again", self.outbox.target.uri)


def deliver(outbox: Outbox, carrier: Carrier, event: Event, end: int) -> bool:
    """Carry one event, or put it aside; say whether it was carried.

    Raises:
        Unreachable: It did not arrive, and may do so later.
        OSError: What became of it cannot be noted.
    """
    reason = attempt(outbox, carrier, event)
    if reason is not None:
        outbox.refuse(event, reason)
    outbox.done(end)
    return reason is None


def attempt(outbox: Outbox, carrier: Carrier, event: Event) -> str | None:
    """Apply an event and return why it was refused for good: by MLflow, or since its file is not the run's.

    Raises:
        Unreachable: It did not arrive, and may do so later.
    """
    if event["kind"] in FILES:
        path = outbox.run_dir / event["path"]
        if not _can_be_a_path(path):
            return f"{str(path)[:200]!r} cannot be a path"
        if leads_out(path, outbox.run_dir):
            return f"{path} is not in {outbox.run_dir}, or a link in it leads out of there"
        event = event | {"path": str(path)}
    try:
        carrier.apply(event)
    except Exception as error:
        reason = carrier.refusal(error)
        if reason is None:
            raise Unreachable from error
        return reason
    return None


@contextmanager
def reaching() -> Iterator[None]:
    """Have whatever is raised within be MLflow's.

    Raises:
        Unreachable: Something was.
    """
    try:
        yield
    except Exception as error:
        raise Unreachable from error


def brief(error: BaseException) -> str:
    """Return an error's type and first line, without secrets; of an ``Unreachable``, those of what MLflow raised."""
    if isinstance(error, Unreachable) and error.__cause__ is not None:
        return brief(error.__cause__)
    if isinstance(error, Timeout):
        return "another process is carrying these events"
    return masked(f"{type(error).__name__}: {first_line(error, 300)}")


def _can_be_a_path(path: Path) -> bool:
    """Return False for what no system takes for a path, however long one waits; whether it is there is not asked."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno not in (errno.ENAMETOOLONG, errno.ELOOP)
    except ValueError:  # a byte of zero, or no letter
        return False
    return True


def _from_folder(run_dir: Path, path: Path) -> str:
    """Return a path as it stays right where a run folder is moved or copied."""
    return str(path.relative_to(run_dir) if path.is_relative_to(run_dir) else path)


def _modified(path: Path) -> int:
    """Return when the newest of a file or of a folder's files was written, in nanoseconds since the epoch."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
