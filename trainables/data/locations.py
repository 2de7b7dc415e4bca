"""Which files a data set has: one, those of a folder or of a pattern, or a split of a hub's."""

import glob
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.results.messages import first_line
from trainables.data.readers import KINDS, Table, read_table
from trainables.data.text_files import PACKED, kind_of
from trainables.models import hub

HUB_FILES = ("README.md", *(f"*{kind}{packed}" for kind in KINDS for packed in ("", *PACKED)))
READ = ".txt, .json, .jsonl, .csv, .tsv, .parquet (.gz, too), a folder or pattern of these, or a hub id"


def read_tables(
    flag: str, dataset: str, wanted: Callable[[str], bool], config: str | None = None, split: str | None = None
) -> Iterator[Table]:
    """Yield what is in each file of a data set, in the order of their names.

    Args:
        flag: The flag that names it, for messages.
        dataset: A file, a folder, a pattern, or a hub id with its commit.
        wanted: As in ``read_table``.
        config: Configuration of a hub data set.
        split: Split of a hub data set.

    Raises:
        ValueError: There is no such thing, or a file of it cannot be read.
    """
    with located(f"{flag} {dataset}"):
        paths = _hub_files(dataset, config, split) if hub.is_hub_id(dataset) else files_here(dataset)
    for path in paths:
        with located(where := place(flag, dataset, path)):
            table = read_table(path, wanted)
        yield replace(table, place=where)


def place(flag: str, dataset: str, path: Path) -> str:
    """Return how a message names a file of a data set."""
    return f"{flag} {dataset}" if str(path) == str(Path(dataset)) else f"{flag} {dataset}: {path}"


@contextmanager
def located(place: str) -> Iterator[None]:
    """Say where a ValueError within is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def files_here(dataset: str) -> list[Path]:
    """Return the files of a data set that is no hub's.

    Raises:
        ValueError: There is none, or one that nothing here reads.
    """
    if os.path.isfile(dataset):
        if kind_of(dataset) not in KINDS:
            raise ValueError(f"unknown kind of file; give {READ}")
        return [Path(dataset)]
    if os.path.isdir(dataset):
        inside = (path for path in sorted(Path(dataset).rglob("*")) if not _is_hidden(path.relative_to(dataset)))
        paths = [path for path in inside if path.is_file() and kind_of(str(path)) in KINDS]
        if not paths:
            raise ValueError(f"no file of a known kind in this folder; give {READ}")
        return paths
    if os.path.exists(dataset):
        raise ValueError(f"not a file; give {READ}")
    matches = [Path(path) for path in sorted(glob.glob(dataset, recursive=True)) if os.path.isfile(path)]
    if strange := next((path for path in matches if kind_of(str(path)) not in KINDS), None):
        raise ValueError(f"{strange}: unknown kind of file; give {READ}")
    if not matches:
        raise ValueError(f"no such file or hub id; give {READ}")
    return matches


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _hub_files(dataset: str, config: str | None, split: str | None) -> list[Path]:
    """Return a split's files of a commit; only kinds that are read as text or as tables are fetched."""
    folder = hub.folder("dataset", dataset, HUB_FILES)
    splits = _splits_of(folder, config)
    name = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if name not in splits:
        raise ValueError(f"no split {name!r}; it has {', '.join(map(str, splits))}: give --dataset-split")
    return [Path(path) for path in splits[name]]


def _splits_of(folder: Path, config: str | None) -> dict[Any, Any]:
    """Return split -> paths, as the data set's card or the names of its files say."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError("a hub data set needs the package `datasets`: pip install datasets") from error

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised by this module, in one line
    try:
        builder = datasets.load_dataset_builder(str(folder), name=config)
        files = builder.config.data_files
    except Exception as error:  # of datasets, which raises whatever its parts do
        flag = " with --dataset-config" if "onfig" in str(error) else ""
        reason = " ".join(str(error).split())[:200] or first_line(error)
        raise ValueError(f"cannot be read{flag} ({reason})") from error
    return {str(name): list(paths) for name, paths in (files or {}).items()}
