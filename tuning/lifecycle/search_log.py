"""The log of a search: ``search.log`` in its run folder, and with ``--verbose`` the same lines on the terminal.

Whatever goes wrong with it is no matter of the search.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from analysis.results.messages import masked, to_stderr
from tuning.lifecycle.output import FULL

FILE = "search.log"
PACKAGES = ("tuning", "trainables", "analysis", "strategies")
"""Whose lines are taken; those of libraries go where they would go without a search."""
Handler = TypeVar("Handler", bound=logging.Handler)


class LineFormatter(logging.Formatter):
    """UTC time, level, logger and message in one line, without secrets; a traceback follows in lines of its own."""

    def __init__(self) -> None:
        self.converter = time.gmtime
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, with whatever would end it, or do something to a terminal, written out."""
        line = super().formatMessage(record)
        return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback if there is one."""
        return masked(super().format(record))


class FileLog(logging.Handler):
    """Keeps lines until there is a folder for them, and writes them there from then on.

    Lines that cannot be written are lost. That is said once, and not at all if the disk of the run is full: the search
    itself stops for want of room, and says so.

    Args:
        warn: Takes that line.
    """

    def __init__(self, warn: Callable[[str], None] = to_stderr) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(LineFormatter())
        self._warn = warn
        self._early: list[str] | None = []
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._is_torn = self._has_complained = False
        self._is_on_disk_of_run = True

    def write_to(self, run_dir: Path) -> None:
        """Write what was said before, and whatever is said from now on, to the end of a run folder's log."""
        self.acquire()
        try:
            early, self._early = self._early or [], None
            self._path = run_dir / FILE
            # without a buffer: a process that is killed has said what it has said, and a full disk fails at once
            self._file = self._path.open("ab", buffering=0)
            self._is_on_disk_of_run = os.fstat(self._file.fileno()).st_dev == run_dir.stat().st_dev
            for line in early:
                self._write(line)
        except OSError as error:
            self._complain(error)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep or write a line."""
        try:
            line = self.format(record)
            if self._early is not None:
                self._early.append(line)
            elif self._file is not None:
                self._write(line)
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say, once, that lines are lost; the standard library would print a traceback for each."""
        error = sys.exc_info()[1]
        if error is not None:
            self._complain(error)

    def close(self) -> None:
        """Write nothing more."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a network folder's last write may fail only now
                self._file.close()
        self._early, self._file = None, None
        super().close()

    def _write(self, line: str) -> None:
        assert self._file is not None
        rest = ("\n" * self._is_torn + line + "\n").encode(errors="backslashreplace")
        self._is_torn = True  # unless all of it arrives: of a line that fails, a part may stand there
        while rest:
            rest = rest[self._file.write(rest) :]
        self._is_torn = False

    def _complain(self, error: BaseException) -> None:
        if self._has_complained or (getattr(error, "errno", None) in FULL and self._is_on_disk_of_run):
            return
        self._has_complained = True
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError, ValueError):  # nobody reads standard error any more
            self._warn(masked(f"{self._path or FILE}: {reason}; the search goes on without its log"))


class TerminalLog(logging.Handler):
    """Shows lines on standard error, wherever that leads at the time: a live table has it write above itself."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        with contextlib.suppress(Exception):  # nobody could be told
            print(self.format(record), file=sys.stderr)


@contextmanager
def heard_by(handler: Handler) -> Iterator[Handler]:
    """Have a handler hear what this project's packages log within."""
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # a library that has given the root a handler would have each line on the terminal
    try:
        yield handler
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
