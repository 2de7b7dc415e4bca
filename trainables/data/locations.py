"""Which files a data set has: one, those of a folder or of a pattern, or a split of a hub's."""

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from analysis.results.messages import first_line
from trainables.data.readers import KINDS, Table, read_table
from trainables.data.text_files import PACKED, kind_of, packing_of
from trainables.models import hub

CARD, OLD_CARD = "README.md", "dataset_infos.json"
HUB_FILES = (CARD, *(f"*{kind}{packed}" for kind in KINDS for packed in ("", *PACKED)))
READ = ".txt, .json, .jsonl or .ndjson, .csv, .tsv, .parquet (.gz, too), a folder or pattern of these, or a hub id"
UNREAD = re.compile(r"\.(bz2|xz|lz4|7z|zip|tar|tgz|xlsx?|ods|feather|orc|avro)$", re.IGNORECASE)
"""Endings of data that nothing here reads."""
HELD_OUT = re.compile(
    r"(?<![a-z0-9])(test|val|valid|validation|dev|eval|evaluation|h[eo]ld[-_. ]?out)\d*(?![a-z0-9])", re.IGNORECASE
)
"""What names of files and folders have in them that are meant for other splits than training."""


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
        paths = _hub_files(flag, dataset, config, split) if hub.is_hub_id(dataset) else files_here(dataset)
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
        return _files_inside(Path(dataset))
    if os.path.exists(dataset):
        raise ValueError(f"not a file; give {READ}")
    matches = [Path(path) for path in sorted(glob.glob(dataset, recursive=True)) if os.path.isfile(path)]
    if strange := next((path for path in matches if kind_of(str(path)) not in KINDS), None):
        raise ValueError(f"{strange}: unknown kind of file; give {READ}")
    if not matches:
        raise ValueError(f"no such file or hub id; give {READ}")
    _check_alike(matches)
    return matches


def _files_inside(folder: Path) -> list[Path]:
    inside = (path for path in sorted(folder.rglob("*")) if not _is_hidden(path.relative_to(folder)))
    files = [path for path in inside if path.is_file()]
    paths = [path for path in files if kind_of(str(path)) in KINDS]
    if not paths:
        raise ValueError(f"no file of a known kind in this folder; give {READ}")
    if unread := next((path for path in files if path not in paths and UNREAD.search(path.name)), None):
        raise ValueError(f"{unread.relative_to(folder)} would not be read; unpack or convert it, or {_pattern(paths)}")
    _check_alike(paths)
    held_out = [path for path in paths if _is_held_out(path.relative_to(folder))]
    if held_out and len(held_out) < len(paths):
        name = held_out[0].relative_to(folder)
        raise ValueError(
            f"{name} would be dealt to training like the others; give the files that are to be, and --test-dataset or "
            f"--validation-dataset {held_out[0]}; to have all dealt, {_pattern(paths)}"
        )
    return paths


def _check_alike(paths: list[Path]) -> None:
    """Check that not some files are of lines and others of columns: a licence beside data is no data."""
    lines = [path for path in paths if kind_of(str(path)) == ".txt"]
    tables = [path for path in paths if path not in lines]
    if lines and tables:
        raise ValueError(
            f"{lines[0].name} has lines of text, and {tables[0].name} has columns; {_pattern(tables)} for these alone"
        )


def _pattern(paths: list[Path]) -> str:
    name = paths[0].name
    return f"give a pattern, as '{paths[0].with_name(f'*{kind_of(name)}{packing_of(name)}')}'"


def _is_held_out(path: Path) -> bool:
    return any(HELD_OUT.search(part) for part in path.parts)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _hub_files(flag: str, dataset: str, config: str | None, split: str | None) -> list[Path]:
    """Return a split's files of a commit, of kinds that are read as text or as tables; no others are fetched."""
    names = [name for name in sorted(hub.file_names("dataset", dataset)) if _may_be_fetched(name)]
    card = hub.folder("dataset", dataset, (CARD,)) / CARD if CARD in names else None
    splits = _splits_of(names, card, config)
    name = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if name not in splits:
        instead = "--dataset-split" if flag == "--dataset" else f"one that has, or leave {flag} out"
        raise ValueError(f"no split {name!r}; it has {', '.join(splits)}: give {instead}")
    folder = hub.folder("dataset", dataset, [glob.escape(path) for path in splits[name]])
    return [folder / path for path in splits[name]]


def _may_be_fetched(name: str) -> bool:
    is_data = ".." not in Path(name).parts and name != OLD_CARD
    return is_data and any(fnmatch(name, pattern) for pattern in HUB_FILES)


def _splits_of(names: Sequence[str], card: Path | None, config: str | None) -> dict[str, list[str]]:
    """Return split -> names of its files, as the data set's card or the names say; no content is needed for that."""
    with tempfile.TemporaryDirectory() as outline:
        for name in names:
            path = Path(outline, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if card is not None:
            shutil.copyfile(card, Path(outline, CARD))
        folder = Path(outline).resolve()
        files = _data_files(str(folder), config)
        try:
            return {
                name: [Path(path).relative_to(folder).as_posix() for path in paths] for name, paths in files.items()
            }
        except ValueError as error:
            raise ValueError("its card names files that are not its own; download them, and give a folder") from error


def _data_files(folder: str, config: str | None) -> dict[str, list[str]]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError("a hub data set needs the package `datasets`: pip install datasets") from error

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised by this module, in one line
    try:
        files = datasets.load_dataset_builder(folder, name=config).config.data_files
    except Exception as error:  # of datasets, which raises whatever its parts do
        flag = " with --dataset-config" if "onfig" in str(error) else ""
        reason = " ".join(str(error).split())[:200] or first_line(error)
        raise ValueError(f"cannot be read{flag} ({reason})") from error
    return {str(name): list(map(str, paths)) for name, paths in (files or {}).items()}
