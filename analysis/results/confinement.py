"""A run folder that somebody else may have made: names in it that become paths, and links that lead out of it."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
"""What an id of a trial, or a name made of it, consists of: it becomes the name of a folder."""
HANDED_OUT = r"^best_adapter(_uniform)?(_unverified)?$"
"""The names of folders that a search hands out, as ``trainables/training/checkpoint.py`` makes them."""


def check_name(what: str, name: object) -> None:
    """Refuse what is no name of one folder.

    Raises:
        ValueError: It says what was to be a name.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{what} must be a name of letters, digits, '.', '_', '+' and '-', got {str(name)[:40]!r}")


def check_folder(folder: Path, but: tuple[str, ...] = ()) -> None:
    """Refuse a folder in which a link leads out of it, or something is neither a file nor a folder.

    Whoever reads or writes there would read or write elsewhere, or wait for ever.

    Args:
        folder: It may be a link itself.
        but: Names in it that are left aside.

    Raises:
        ValueError: It names the first such thing.
    """
    for path in _inside(folder, but):
        if leads_out(path, folder):
            raise ValueError(f"{path}: a link that leads out of {folder}; put there what it leads to")
        if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISLNK(mode):
            raise ValueError(f"{path}: neither a file nor a folder; remove it")


def leads_out(path: Path, folder: Path) -> bool:
    """Return True if a path, once its links are resolved, is not in a folder, or if something below it is not."""
    here = os.path.realpath(folder)
    return any(not Path(os.path.realpath(each)).is_relative_to(here) for each in (path, *_inside(path)))


def _inside(folder: Path, but: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield all files and links below a folder, in order; no link is followed."""
    for there, folders, files in os.walk(folder):
        if Path(there) == folder:
            folders[:] = [name for name in folders if name not in but]
            files = [name for name in files if name not in but]
        yield from (path for name in sorted((*folders, *files)) if _is_end(path := Path(there, name)))


def _is_end(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()
