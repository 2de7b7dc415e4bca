"""Files as text, packed or not, as far as memory goes. Errors say at which byte."""

import gzip
import zlib
from pathlib import Path
from typing import Any

from analysis.results.messages import first_line
from trainables.models.free_memory import free_bytes

PACKED = (".gz", ".zst")


SIGNATURES = {
    b"\x1f\x8b": "give it the ending .gz",
    b"\x28\xb5\x2f\xfd": "give it the ending .zst",
    b"PK\x03\x04": "unpack the zip first",
}
"""What a packed file begins with -> what to do with it."""


SHARE_OF_MEMORY = 4
"""Of the memory that is free a file may fill one part in so many: its rows and tokens are held, too."""


class TooLarge(ValueError):
    """A file has more than may be held in memory."""


def kind_of(path: str) -> str:
    """Return a file's ending in lower case, without that of its compression; it decides how a file is read."""
    name = Path(path).name.lower()
    return Path(name.removesuffix(packed) if (packed := packing_of(path)) else name).suffix


def packing_of(path: str) -> str:
    """Return the ending of a file's compression; empty if it has none."""
    return next((packed for packed in PACKED if path.lower().endswith(packed)), "")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        ValueError: It is no text; names the first such byte and line.
    """
    raw = unpacked(path)
    if ending := next((ending for sign, ending in SIGNATURES.items() if raw.startswith(sign)), None):
        raise ValueError(f"packed, and its name does not say so; {ending}")
    if (hole := raw.find(b"\0")) >= 0 and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"binary, not text, at {_place(raw, hole)}; give UTF-8 text")
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at {_place(raw, error.start)}; convert it first") from error


def unpacked(path: Path) -> bytes:
    """Return what a file has once it is unpacked, as far as memory goes: a small file may have a lot.

    Raises:
        ValueError: It cannot be unpacked, or has too much.
    """
    most = _most_bytes()
    try:
        with _opened(path) as file:
            raw = bytes(file.read(most + 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"cannot be unpacked ({first_line(error)}); correct the file") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"cannot be unpacked ({first_line(error)}); correct the file") from error  # pyarrow's
    check_fits(len(raw), most)
    return raw


def check_fits(size: int, most: int | None = None) -> None:
    """Check that so many bytes of a file may be held, ``most`` or what follows from the memory that is free.

    Raises:
        TooLarge: They are too many.
    """
    most = _most_bytes() if most is None else most
    if size > most:
        raise TooLarge(f"has more than {most / 1e9:.1f} GB, and rows and tokens need memory, too; give a part of it")


def _most_bytes() -> int:
    return int(free_bytes() // SHARE_OF_MEMORY)


def _opened(path: Path) -> Any:
    packing = packing_of(str(path))
    if packing == ".gz":
        return gzip.open(path)
    if packing == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return path.open("rb")


def _place(raw: bytes, byte: int) -> str:
    line = raw.count(b"\n", 0, byte) + 1
    return f"byte {byte:,}, line {line:,}"


def read_some_text(path: Path) -> str:
    """Read a UTF-8 file that has more than spaces.

    Raises:
        ValueError: As ``read_text``, or there is no text.
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError("no text in it, it is empty")
    return text
