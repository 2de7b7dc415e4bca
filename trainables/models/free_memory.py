"""Memory that a process could still get: the machine's, or what its container or job leaves it; and giving it back."""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import psutil

LARGEST_OF_HEAP = -3  # M_MMAP_THRESHOLD of malloc.h
MEMBERSHIP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
SECOND = ("memory.max", "memory.current", "inactive_file")
FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Of a version of control groups: files of limit and use, and what of the use is files that the kernel may drop."""


def free_bytes(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> int:
    """Return the memory that this process could still get, in bytes.

    psutil knows the machine alone; a container, or a job of a cluster, may be allowed less.

    Args:
        membership: File that names the control groups of this process; there is none but on Linux.
        groups: Folder of all groups.
    """
    return int(min([psutil.virtual_memory().available, *_left_by(membership, groups)]))


def _left_by(membership: Path, groups: Path) -> Iterator[int]:
    """Give what each group with a limit leaves, from that of this process up: every one of them holds."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (groups / "memory", FIRST) if controllers else (groups, SECOND)
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (left := _left(folder, *names)) is not None:
                yield left


def _left(folder: Path, limit: str, use: str, cache: str) -> int | None:
    """Return what a group leaves; None if it has no limit, or is not seen from within a container."""
    try:
        free = int((folder / limit).read_text()) - int((folder / use).read_text())
    except (OSError, ValueError):  # "max" is no number
        return None
    return max(0, free + _cached(folder / "memory.stat", cache))


def _cached(path: Path, name: str) -> int:
    try:
        return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[:1] == [name])
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def give_back() -> None:
    """Have the C library return free memory: on CPU it would keep a GB, fragmented between blocks in use."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def give_large_pieces_back() -> None:
    """Have the C library take large pieces from the system alone and give them back: on CPU, where memory is short.

    Between blocks that compute twice it would keep three times what is in use. Asking the system each time costs time.
    """
    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL("libc.so.6").mallopt(LARGEST_OF_HEAP, 2**18)
