"""What a search's process is told before anything is imported, and once all is; and how it ends."""

import contextlib
import ctypes
import gc
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import NoReturn

from trainables.actors.ray_compat import DEVICES_STAY_VISIBLE, UNHANDLED_STAY_QUIET

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What tells a search to stop; the last comes when its terminal is closed, unless ``nohup`` keeps it away."""
OK, NO_USABLE_TRIAL, USAGE_ERROR, SOME_FAILED, DISK_FULL, CUT_OFF, NOT_VERIFIED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130
"""Exit statuses; ``tuning.flags.STATUSES`` says what they mean."""
RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours is in tuning.lifecycle.stop
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # nobody reads Ray's snapshot, and writing it takes longer with every trial
    "TOKENIZERS_PARALLELISM": "false",
    **UNHANDLED_STAY_QUIET,
    **DEVICES_STAY_VISIBLE,
}
"""Variables by which Ray and the tokenizers do what a search needs; what somebody has set stays as it is."""
INSTALLED = "lora-rank-search"
M_ARENA_MAX, ARENAS = -8, 2
NOTHING_BEGUN = "Stopped before any trial began"
_last_words = NOTHING_BEGUN
_counts_from_its_start = False
_program = "python tune.py" if Path(__file__).parents[2].joinpath("tune.py").is_file() else INSTALLED
_command_line: ContextVar[str | None] = ContextVar("command_line", default=None)


def quieten_ray() -> None:
    """Set what Ray is to find in the environment when it is imported."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def as_command() -> Iterator[None]:
    """Have searches within be those of a command, to which this process belongs."""
    before = _command_line.set(shlex.join(sys.argv))
    try:
        yield
    finally:
        _command_line.reset(before)


def command_line() -> str | None:
    """Return the command whose search this is; None if a program has called for it."""
    return _command_line.get()


def begin_search() -> None:
    """Have this process be a search's own: before its imports, which take seconds."""
    leave_at_once()
    use_few_arenas()
    collect_no_garbage()
    count_from_its_start()


def call_it(name: str) -> None:
    """Have messages call the command by a name."""
    global _program
    _program = name


def program() -> str:
    """Return how a person types the command, without its flags."""
    return _program


def subcommand(name: str, module: str) -> str:
    """Return how a person types a command beside the search: of what is installed its name, else its module's.

    ``python -m tuning`` would run another folder of that name where there is one.
    """
    return f"{_program} {name}" if _program == INSTALLED else f"python -m {module}"


def leave_at_once() -> None:
    """Have SIGINT, SIGTERM and SIGHUP end this process at once, until something else is made of them.

    An exception would do, did it not leave a traceback, and did no library swallow it while it is imported.
    """
    for number in heard():
        signal.signal(number, _leave)


def heard() -> list[signal.Signals]:
    """Return the signals that this process is to hear: not SIGHUP if whoever started it has that ignored."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def leave_with(line: str) -> None:
    """Have this process, if a signal ends it at once, say something else than that nothing has begun."""
    global _last_words
    _last_words = line


def last_words() -> str:
    """Return how to go on, or that there is nothing to go on with."""
    return _last_words


def leave_because(why: str) -> NoReturn:
    """End this process at once, since it cannot go on, and say why."""
    _say_last(f"Error: {why}. {_last_words}")
    os._exit(CUT_OFF)


def _leave(number: int, frame: FrameType | None) -> None:
    _say_last(_last_words)
    os._exit(128 + number)


def _say_last(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody reads it, or there is no standard error
        os.write(sys.stderr.fileno(), os.fsencode(f"{line}\n"))


@contextmanager
def sparing_children() -> Iterator[None]:
    """Have processes that begin within not hear SIGTERM and SIGHUP.

    Whoever stops a process group or a job sends the one to each, and a terminal that is closed the other. This process
    ends them itself, once they are no longer needed. Ray does the same for SIGINT.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def use_few_arenas() -> None:
    """Have glibc's allocator share two arenas among all threads.

    By default it has eight for each core, and what Ray's threads leave in them is not given back (``benchmarks.soak``:
    half of the memory that a trial leaves behind). Elsewhere than on Linux nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, ARENAS)


def collect_no_garbage() -> None:
    """Stop looking for garbage while libraries are imported; they leave next to none."""
    gc.disable()


def collect_garbage_again() -> None:
    """Look for garbage among what is made from now on: what libraries have made stays to the end."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def count_from_its_start() -> None:
    """Have what this process does before its search, its imports, count as time of the search."""
    global _counts_from_its_start
    _counts_from_its_start = True


def is_of_a_search() -> bool:
    """Return True if this process is a search's own, and no program that has called for one."""
    return _counts_from_its_start


def seconds_before_search() -> float:
    """Return for how long this process has run, in seconds; 0 where it is not a search's own."""
    if not _counts_from_its_start:
        return 0.0
    import psutil  # not before signals are heard

    return max(0.0, time.time() - psutil.Process().create_time())  # a clock may have been set back


def end_without_collecting() -> None:
    """Have the interpreter end without going through all that there is, which takes it two seconds."""
    gc.freeze()
