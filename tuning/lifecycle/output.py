"""Standard output and error of what can do without them: ``| head``, a full disk, a closed terminal."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that is full, or of which somebody's share is."""
log = logging.getLogger(__name__)


class Output:
    """A stream that takes whatever is written to it; once nobody takes that from it, it goes nowhere.

    Args:
        stream: Where it is written as long as that can be done.
        name: Of the stream, in words.
        what: What prints, in words.

    ``said`` is the line about its loss; empty as long as it is written.
    """

    def __init__(self, stream: TextIO, name: str, what: str) -> None:
        self._stream, self._name, self._what, self._is_lost = stream, name, what, False
        self.said = ""

    def write(self, text: str) -> int:
        """Write, and return how much was taken: all of it."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:  # the stream has another encoding
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write one text after the other."""
        for text in lines:
            self.write(text)

    def flush(self) -> None:
        """Have what was written arrive, if anything does."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: Exception) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        if self._stream.closed:  # by whoever opened it; a library has kept this from an earlier search
            return
        reason = getattr(error, "strerror", None) or str(error)
        line = f"{self._name} cannot be written ({reason}); {self._what} goes on without it"
        with contextlib.suppress(OSError, ValueError):  # what waits in its buffer would fail again, as Python ends
            _lead_nowhere(self._stream.fileno())
        log.warning("%s", line)
        self.said = line
        if self is not sys.stderr:
            print(line, file=sys.stderr)


def log_losses() -> None:
    """Log which streams go nowhere already: what is shown first comes before a search's log."""
    for stream in (sys.stdout, sys.stderr):
        if line := getattr(stream, "said", ""):
            log.warning("%s", line)


@contextmanager
def unbreakable(what: str = "the search") -> Iterator[None]:
    """Have nothing that is printed within end what prints it.

    Args:
        what: That, in words.
    """
    before = sys.stdout, sys.stderr
    sys.stderr = sys.stderr and Output(sys.stderr, "standard error", what)
    sys.stdout = sys.stdout and Output(sys.stdout, "standard output", what)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
