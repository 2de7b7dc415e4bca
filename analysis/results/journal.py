"""Append-only files of JSON lines, each with a checksum by which damage is detected."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.results.strict_json import parsed

CHECKSUM = "checksum"
DIGITS = 16

Damage = Sequence[tuple[int, str]]
"""Line number and reason, for each line that is damaged."""


def sealed(value: Mapping[str, Any]) -> str:
    """Return a mapping as one line of JSON that ends with a checksum of the rest.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps({**value, CHECKSUM: _checksum(value)}, allow_nan=False)


def append(path: Path, value: Mapping[str, Any], sync: bool = True) -> None:
    """Append a line, or nothing; if the last line was cut off, first end it, so that only that line is lost.

    Args:
        path: The file; made if it is not there.
        value: The line's mapping.
        sync: True to return only when the line is on disk.

    Raises:
        OSError: There is no room, or the file cannot be written; it names the file.
    """
    line = (sealed(value) + "\n").encode()
    try:
        with path.open("ab+", buffering=0) as file:
            _append_line(file, line, sync)
    except OSError as error:
        error.filename = str(path)
        raise


def read(path: Path, unsealed: bool = True) -> tuple[list[dict[str, Any]], Damage]:
    """Return the mappings of a file's intact lines, without their checksums, and the damaged lines.

    Args:
        path: The file.
        unsealed: True if a line may have no checksum.

    Raises:
        OSError: The file cannot be read.
    """
    values, damage = numbered(path, unsealed)
    return list(values.values()), damage


def numbered(path: Path, unsealed: bool = True) -> tuple[dict[int, dict[str, Any]], Damage]:
    """Return the same as ``read``, the intact lines by their numbers, which begin at 1."""
    values, damage = {}, []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                values[number] = opened(line, unsealed)
            except ValueError as error:
                damage.append((number, str(error)))
    return values, damage


def opened(line: bytes, unsealed: bool = True) -> dict[str, Any]:
    """Return a line's mapping, without its checksum.

    Args:
        line: As it is in the file.
        unsealed: True if it may have no checksum.

    Raises:
        ValueError: The line is damaged.
    """
    value = parsed(line)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    checksum = value.pop(CHECKSUM, None)
    if checksum is None and not unsealed:
        raise ValueError("no checksum")
    if checksum is not None and checksum != _checksum(value):
        raise ValueError("its checksum does not fit: it was changed")
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _append_line(file: Any, line: bytes, sync: bool) -> None:
    size = file.tell()
    if size and not _ends_with_newline(file):
        line = b"\n" + line
    try:
        while line:  # a full disk takes a part of the line, and only the next write fails
            line = line[file.write(line) :]
        if sync:
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to raise
            file.truncate(size)
        raise


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
