"""Data and models that a program hands over: told by what they can do, and saved as files that every process reads."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.results.run_info import FILES_GIVEN, MODEL

DATA = tuple(name for name in FILES_GIVEN if name != MODEL)


def handed_over(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the choices that are data or a model themselves, and no name of them."""
    data = {name: choices[name] for name in DATA if _is_data(choices.get(name))}
    return data | ({MODEL: choices[MODEL]} if _is_model(choices.get(MODEL)) else {})


def save(given: Mapping[str, Any], folder: Path, may_be_read: Callable[[str], bool]) -> dict[str, str]:
    """Write data and model, and return the choice -> the path that stands for it.

    Args:
        given: Choice -> what was handed over.
        folder: Is made.
        may_be_read: Returns True for the name of a column that a format may want. What JSON cannot say in another
            column is left out.

    Raises:
        ValueError: A cell that may be read cannot be written, or a model comes without its tokenizer.
    """
    folder.mkdir(parents=True)
    paths = {name: folder / (name if name == MODEL else f"{name}.jsonl") for name in given}
    for name, value in given.items():
        _save_model(value, paths[name]) if name == MODEL else _save_rows(name, value, paths[name], may_be_read)
    return {name: str(path.resolve()) for name, path in paths.items()}


def _is_data(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(row, Mapping) for row in value)
    return _is_frame(value) or _is_dataset(value)


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "to_dict") and hasattr(value, "itertuples")


def _is_dataset(value: Any) -> bool:
    """Return True for one split of ``datasets``; several of them are a mapping."""
    return hasattr(value, "column_names") and hasattr(value, "features") and not isinstance(value, Mapping)


def _is_model(value: Any) -> bool:
    parts = value if isinstance(value, tuple | list) else [value]
    return bool(parts) and all(hasattr(part, "save_pretrained") for part in parts)


def _save_model(value: Any, folder: Path) -> None:
    parts = value if isinstance(value, tuple | list) else [value]
    if len(parts) != 2:
        raise ValueError("model: a loaded model needs its tokenizer; give (model, tokenizer)")
    for part in parts:
        part.save_pretrained(str(folder))


def _save_rows(name: str, value: Any, path: Path, may_be_read: Callable[[str], bool]) -> None:
    rows: Iterator[Any] = iter(value.to_dict("records") if _is_frame(value) else value)
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            try:
                file.write(f"{{{', '.join(_cells(row, may_be_read))}}}\n")
            except ValueError as error:
                raise ValueError(f"{name}: row {number:,}, {error}") from error


def _cells(row: Mapping[Any, Any], may_be_read: Callable[[str], bool]) -> Iterator[str]:
    """Yield each column and its cell, as JSON has them."""
    for column, cell in row.items():
        try:
            written = _as_json(cell)
        except (TypeError, ValueError) as error:  # surrogates are ValueErrors, too
            if may_be_read(str(column)):
                raise ValueError(f"column {str(column)!r} cannot be written as JSON ({error})") from error
            written = "null"
        yield f"{_as_json(str(column))}: {written}"


def _as_json(value: Any) -> str:
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def _plain(value: Any) -> Any:
    """Return what JSON has for a cell; what is missing in a frame is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    as_python: Callable[[], Any] | None = getattr(value, "tolist", None)  # of NumPy: a number, or an array
    if as_python is not None:
        return _plain(as_python())
    is_missing = (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in {"NaTType", "NAType"}
    return None if is_missing else value
