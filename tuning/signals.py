"""Signals that come before a search has begun."""

import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_at_once() -> None:
    """Have SIGINT and SIGTERM end this process at once, until something else is made of them.

    An exception would do, did it not leave a traceback, and did no library swallow it while it is imported.
    """
    for number in SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"Stopped before any trial began\n")
    os._exit(128 + number)
