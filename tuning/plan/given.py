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


def save(given: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Write data and model, and return the choice -> the path that stands for it.

    Args:
        given: Choice -> what was handed over.
        folder: Is made.

    Raises:
        ValueError: A row cannot be written, or a model comes without its tokenizer.
    """
    folder.mkdir(parents=True)
    paths = {name: folder / (name if name == MODEL else f"{name}.jsonl") for name in given}
    for name, value in given.items():
        _save_model(value, paths[name]) if name == MODEL else _save_rows(name, value, paths[name])
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


def _save_rows(name: str, value: Any, path: Path) -> None:
    rows: Iterator[Any] = iter(value.to_dict("records") if _is_frame(value) else value)
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            try:
                line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
                file.write(line + "\n")
            except (TypeError, ValueError) as error:  # surrogates are ValueErrors, too
                raise ValueError(f"{name}: row {number} cannot be written as JSON ({error})") from error


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
