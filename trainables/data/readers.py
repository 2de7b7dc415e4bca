"""Reads files of texts and tables as they are: no cell is guessed at. Errors say where. Nothing here reads a pickle."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.results.messages import first_line
from trainables.data.text_files import TooLarge, check_fits, kind_of, packing_of, read_some_text, read_text, unpacked

EXCEL = re.compile(r"sep=([,;\t])\r?\n")
"""A first line by which Excel knows the delimiter."""
CONVERSATIONS = {"messages", "conversations", "prompt"}
DELIMITERS = (",", ";", "\t")
csv.field_size_limit(sys.maxsize)  # a cell may be a whole book


@dataclass(frozen=True, slots=True)
class Table:
    """What is in a file.

    Args:
        columns: All names, in order; none in a file of lines.
        rows: Column -> value; a cell that is null, empty in a .csv file, or absent has no key.
        place: How a message names the file.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    place: str = ""


class Written(float):
    """A number of a JSON file that knows how it is written there: 3.10 is the number 3.1, but another text."""

    __slots__ = ("characters",)
    characters: str

    @classmethod
    def of(cls, characters: str) -> "Written":
        """Return the number that the characters stand for."""
        number = cls(characters)
        number.characters = characters
        return number


def read_table(path: Path, wanted: Callable[[str], bool]) -> Table:
    """Read a file.

    Args:
        path: A file of one of ``KINDS``, compressed or not.
        wanted: Whether a column of a name is; the others may be left unread.

    Raises:
        ValueError: It cannot be read; says where and why.
    """
    try:
        return KINDS[kind_of(str(path))](path, wanted)
    except OSError as error:
        raise ValueError(f"{error.strerror or first_line(error)}; give a file that can be read") from error


def _lines(path: Path, wanted: Callable[[str], bool]) -> Table:
    """A line is what a line feed ends, or a carriage return and a line feed; no other sign ends one."""
    text = read_text(path)
    if "\n" not in text and text.rstrip("\r").count("\r"):
        raise ValueError("lines end with a carriage return alone, as on old Macs; convert them to line feeds")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the last line feed is no line
    return Table((), [{"": text} if (text := line.removesuffix("\r")) else {} for line in lines])


def _cells(path: Path, wanted: Callable[[str], bool]) -> Table:
    text = read_some_text(path)
    delimiters = ("\t",) if kind_of(str(path)) == ".tsv" else DELIMITERS
    if said := EXCEL.match(text):
        text, delimiters = text[said.end() :], (said[1],)
    delimiter = _delimiter(text, delimiters, wanted)
    header = _header(text, delimiter) or next(_parsed(text, delimiter), (0, []))[1]
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise ValueError(f"two columns are called {twice!r}; rename one")
    rows = []
    for number, cells in list(_parsed(text, delimiter))[1:]:
        if len(cells) > len(header):
            many = f"{len(cells)} cells, {len(header)} columns"
            raise ValueError(f"cannot be read (line {number:,}: {many}); correct the file")
        rows.append({name: cell for name, cell in zip(header, cells, strict=False) if cell and wanted(name)})
    if not rows:
        raise ValueError("cannot be read (there are no rows in it); correct the file")
    return Table(tuple(header), rows)


def _delimiter(text: str, delimiters: Sequence[str], wanted: Callable[[str], bool]) -> str:
    """Return the sign that makes most of the wanted columns, or else most columns: a name may have others in it."""

    def columns(sign: str) -> tuple[int, int]:
        header = _header(text, sign)
        return sum(wanted(name) for name in set(header)), len(header)

    return max(delimiters, key=columns)


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return next(_parsed(text, delimiter))[1]
    except (StopIteration, ValueError):  # of another delimiter's file, a quoted cell has no end
        return []


def _parsed(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which a row ends, and its cells; a line without any is no row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    began = 1
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
            began = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"cannot be read (the row of line {began:,}: {error}); correct the file") from error


def _json_lines(path: Path, wanted: Callable[[str], bool]) -> Table:
    return _json_table(_line_by_line(read_some_text(path)), wanted)


def _line_by_line(text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _object(_loaded(line), line)
            except ValueError as error:
                raise ValueError(f"cannot be read (line {number:,}: {error}); correct the file") from error


def _json(path: Path, wanted: Callable[[str], bool]) -> Table:
    """A list of objects, alone or as the only list of objects in an object; or JSON lines under another name."""
    text = read_some_text(path)
    try:
        content = _loaded(text)
    except ValueError as error:
        if "Extra data" in str(error):
            return _json_lines(path, wanted)
        raise ValueError(f"cannot be read ({error}); correct the file") from error
    if isinstance(content, dict):
        content = _of_columns(content) or _only_list(content) or [content]
    if not isinstance(content, list):
        raise ValueError(f"cannot be read ({text.strip()[:40]} is no list of objects); correct the file")
    return _json_table((_object(row, str(row), number) for number, row in enumerate(content, 1)), wanted)


def _of_columns(content: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a table that is written column by column, as pandas does: lists, or numbers -> cells."""
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        keys = list(values[0])
        if not keys or keys[0] != "0" or any(list(value) != keys for value in values):
            return None
        values = [list(value.values()) for value in values]
    if not values or not all(isinstance(value, list) for value in values) or len(set(map(len, values))) > 1:
        return None
    if any(isinstance(cell, dict) for value in values for cell in value):  # messages of one row
        return None
    return [dict(zip(content, cells, strict=True)) for cells in zip(*values, strict=True)] or None


def _only_list(content: dict[str, Any]) -> list[Any] | None:
    lists = [value for value in content.values() if isinstance(value, list) and value]
    lists = [value for value in lists if all(isinstance(item, dict) for item in value)]
    is_row = CONVERSATIONS & content.keys()  # a file of one conversation
    return lists[0] if len(lists) == 1 and not is_row else None


def _loaded(text: str) -> Any:
    try:
        content = json.loads(text, parse_float=Written.of)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is JSON but no text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    return content


def _object(value: Any, text: str, row: int | None = None) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    where = "" if row is None else f"row {row:,}: "
    problem = f"{where}{text.strip()[:40]} is no JSON object"
    raise ValueError(problem if row is None else f"cannot be read ({problem}); correct the file")


def _json_table(objects: Iterator[dict[str, Any]], wanted: Callable[[str], bool]) -> Table:
    columns: dict[str, None] = {}
    rows = []
    for row in objects:
        columns.update(dict.fromkeys(row))
        rows.append(_without_nulls((name, value) for name, value in row.items() if wanted(name)))
    if not rows:
        raise ValueError("cannot be read (there are no rows in it); correct the file")
    return Table(tuple(columns), rows)


def _parquet(path: Path, wanted: Callable[[str], bool]) -> Table:
    import pyarrow
    import pyarrow.parquet

    if not path.stat().st_size:
        raise ValueError("no text in it, it is empty")
    binary = _binary(path)
    try:
        with binary, pyarrow.parquet.ParquetFile(binary) as file:
            names = file.schema_arrow.names
            chosen = [name for name in names if wanted(name)]
            check_fits(_unpacked_bytes(file.metadata, chosen))
            rows = file.read(chosen).to_pylist()
            count = file.metadata.num_rows
    except TooLarge:
        raise
    except (pyarrow.ArrowException, ValueError) as error:
        raise ValueError(f"cannot be read (not a parquet file: {first_line(error)}); correct the file") from error
    return _arrow_table(names, rows or [{}] * count)


def _unpacked_bytes(metadata: Any, names: Sequence[str]) -> int:
    """Return how much columns take that are not packed; those within a column begin with its name."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    parts = (group.column(index) for group in groups for index in range(group.num_columns))
    begins = tuple(f"{name}." for name in names)
    return sum(part.total_uncompressed_size for part in parts if f"{part.path_in_schema}.".startswith(begins))


def _arrow(path: Path, wanted: Callable[[str], bool]) -> Table:
    import pyarrow

    binary = _binary(path)
    rows, size = [], 0
    try:
        with binary as file, pyarrow.ipc.open_stream(file) as stream:
            names = stream.schema.names
            for batch in stream:
                chosen = batch.select([name for name in names if wanted(name)])
                check_fits(size := size + chosen.nbytes)
                rows += chosen.to_pylist()
    except TooLarge:
        raise
    except (pyarrow.ArrowException, ValueError) as error:
        raise ValueError(f"cannot be read ({first_line(error)}); correct the file") from error
    return _arrow_table(names, rows)


def _binary(path: Path) -> Any:
    """Open a file that is read by place, and so in memory if it is packed."""
    import pyarrow

    return pyarrow.BufferReader(unpacked(path)) if packing_of(str(path)) else pyarrow.OSFile(str(path))


def _arrow_table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    if not rows:
        raise ValueError("cannot be read (there are no rows in it); correct the file")
    return Table(tuple(names), [_without_nulls(row.items()) for row in rows])


def _without_nulls(cells: Any) -> dict[str, Any]:
    """A number that is none is how tables write the null of a column of numbers."""
    return {name: value for name, value in cells if value is not None and value == value}


KINDS: dict[str, Callable[[Path, Callable[[str], bool]], Table]] = {
    ".txt": _lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _cells,
    ".tsv": _cells,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
"""Ending -> what reads such a file."""


def text_of(value: Any) -> str:
    """Return a cell as text: the characters that stand in the file, where the file is one of characters.

    Raises:
        ValueError: It is a list, a mapping or bytes.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Written):
        return value.characters
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"but {str(value)[:40]}; make it text")
    return json.dumps(value) if isinstance(value, bool) else str(value)
