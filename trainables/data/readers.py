"""Reads text files, tables and hub data sets; errors name the line at fault. Nothing here reads a pickle."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from analysis.results.messages import first_line
from trainables.models import hub

LOADERS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
KINDS = ("json", "jsonl", "csv", "tsv", "txt", "parquet", "arrow")
HUB_FILES = ("README.md", *(f"*.{kind}{packed}" for kind in KINDS for packed in ("", ".gz", ".zst")))


def suffix(dataset: str) -> str:
    """Return a file's ending in lower case, which decides how it is read."""
    return Path(dataset).suffix.lower()


def read_text(path: str) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        ValueError: It cannot be read, or is no text; names the first such byte and line.
    """
    if not os.path.isfile(path):
        problem = "not a file" if os.path.exists(path) else "No such file"
        raise ValueError(f"--dataset {path}: {problem}; give a file that can be read")
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"--dataset {path}: {error.strerror or error}; give a file that can be read") from error
    if (hole := raw.find(b"\0")) >= 0 and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"--dataset {path}: binary, not text, at {_place(raw, hole)}; give UTF-8 text")
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"--dataset {path}: not UTF-8 at {_place(raw, error.start)}; convert it first") from error


def _place(raw: bytes, byte: int) -> str:
    line = raw.count(b"\n", 0, byte) + 1
    return f"byte {byte:,}, line {line:,}"


def read_columns(dataset: str, columns: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Read columns of a table; a row with a null in one of them is omitted.

    Args:
        dataset: A .jsonl, .csv or .parquet file, or a hub id with its commit.
        columns: Flag, for messages -> name of a column.

    Raises:
        ValueError: It cannot be read, lacks a column, or a column has no text.
    """
    table = _from_hub(dataset) if hub.is_hub_id(dataset) else _from_file(dataset)
    for flag, column in columns.items():
        if column not in table.column_names:
            raise ValueError(
                f"--dataset {dataset}: no column {column!r} ({flag}); it has {', '.join(table.column_names)}"
            )
    rows = list(zip(*(_texts(dataset, flag, table[name]) for flag, name in columns.items()), strict=True))
    for index, (flag, column) in enumerate(columns.items()):
        if rows and all(row[index] is None for row in rows):
            raise ValueError(f"--dataset {dataset}: the column {column!r} ({flag}) is null in all {len(rows):,} rows")
    return [row for row in rows if None not in row]


def _texts(dataset: str, flag: str, values: Any) -> Iterator[str | None]:
    """Return cells as text, None for nulls and for NaN, which is how tables write nulls of numbers."""
    for number, value in enumerate(values, 1):
        if isinstance(value, list | dict | bytes):
            raise ValueError(
                f"--dataset {dataset}: row {number:,} has no text ({flag}) but {str(value)[:40]}; make it text"
            )
        yield None if value is None or value != value else str(value)


def _from_file(dataset: str) -> Any:
    kind = LOADERS.get(suffix(dataset))
    if kind is None:
        problem = "unknown kind of file" if os.path.exists(dataset) else "no such file or hub id"
        raise ValueError(f"--dataset {dataset}: {problem}; give .txt, {', '.join(LOADERS)} or a hub id")
    if not os.path.isfile(dataset):
        problem = "not a file" if os.path.exists(dataset) else "no such file"
        raise ValueError(f"--dataset {dataset}: {problem}; give .txt, {', '.join(LOADERS)} or a hub id")
    if os.path.getsize(dataset) == 0:
        raise ValueError(f"--dataset {dataset}: no text in it, it is empty")
    text = read_text(dataset) if kind != "parquet" else ""  # locates a wrong byte better than the parsers do
    try:
        return _load(kind, data_files=dataset)
    except Exception as error:  # of pandas, Arrow and datasets, by whichever parser failed
        reason = (_broken_line(text) if kind == "json" else None) or _why(error)
        raise ValueError(f"--dataset {dataset}: cannot be read ({reason}); correct the file") from error


def _from_hub(dataset: str) -> Any:
    """Load a commit's files; only kinds that are read as text or as tables are fetched."""
    folder = hub.folder("dataset", dataset, HUB_FILES)
    try:
        return _load(str(folder))
    except Exception as error:  # as above
        raise ValueError(f"--dataset {dataset}: cannot be read ({_why(error)})") from error


def _load(path: str, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised by this module, in one line
    split: Literal["train"] = "train"
    return datasets.load_dataset(path, split=split, **options)


def _broken_line(text: str) -> str | None:
    """Return the first line of JSON lines that is no JSON object, and why."""
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip() and not isinstance(value := json.loads(line), dict):
                return f"line {number:,}: {line.strip()[:40]} is no JSON object"
            if line.strip():
                json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is JSON but no text
        except (ValueError, RecursionError) as error:
            return f"line {number:,}: no JSON ({error})"
    return None


def _why(error: Exception) -> str:
    line = first_line(error.__cause__ or error)
    return "there are no rows in it" if "corresponds to no data" in line else line
