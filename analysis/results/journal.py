"""Append-only files of JSON lines that say themselves whether they are whole."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"
DIGITS = 16

Damage = Sequence[tuple[int, str]]
"""Line number and what is wrong with it, for each line that is not as it was written."""


def sealed(value: Mapping[str, Any]) -> str:
    """Return a value as one line of JSON that ends with a checksum of the rest.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps({**value, CHECKSUM: _checksum(value)}, allow_nan=False)


def append(path: Path, value: Mapping[str, Any], sync: bool = True) -> None:
    """Add a line, or nothing; a last line that was cut off is closed first, so that it costs nothing but itself.

    Args:
        path: The file; made if it is not there.
        value: What the line says.
        sync: Return only when the line is on disk.

    Raises:
        OSError: There is no room, or the file cannot be written; it names the file.
    """
    line = (sealed(value) + "\n").encode()
    try:
        with path.open("ab+", buffering=0) as file:
            _add(file, line, sync)
    except OSError as error:
        error.filename = str(path)
        raise


def read(path: Path, unsealed: bool = True) -> tuple[list[dict[str, Any]], Damage]:
    """Return the whole lines of a file, without their checksums, and what is wrong with the others.

    Args:
        path: The file.
        unsealed: Whether a line may have no checksum.

    Raises:
        OSError: The file cannot be read.
    """
    whole, damage = numbered(path, unsealed)
    return list(whole.values()), damage


def numbered(path: Path, unsealed: bool = True) -> tuple[dict[int, dict[str, Any]], Damage]:
    """Return the same as ``read``, the whole lines under their numbers, which begin at 1."""
    whole, damage = {}, []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                whole[number] = opened(line, unsealed)
            except ValueError as error:
                damage.append((number, str(error)))
    return whole, damage


def opened(line: bytes, unsealed: bool = True) -> dict[str, Any]:
    """Return what a line says, without its checksum.

    Args:
        line: As it stands in the file.
        unsealed: Whether it may have no checksum.

    Raises:
        ValueError: It is not as it was written.
    """
    try:
        value = json.loads(line, parse_constant=_no_number)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("cut off, or no JSON") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    checksum = value.pop(CHECKSUM, None)
    if checksum is None and not unsealed:
        raise ValueError("no checksum")
    if checksum is not None and checksum != _checksum(value):
        raise ValueError("its checksum does not fit: it was changed")
    return value


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON; leave out what is unknown")


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _add(file: Any, line: bytes, sync: bool) -> None:
    size = file.tell()
    if size and not _ends_whole(file):
        line = b"\n" + line
    try:
        while line:  # what fills a disk is written in part, and only the next attempt fails
            line = line[file.write(line) :]
        if sync:
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to be told
            file.truncate(size)
        raise


def _ends_whole(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
