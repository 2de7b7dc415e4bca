"""Files and folders that a reader sees as they were or as they are to be, and never in between."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing_file(path: Path, writer: str = "") -> Iterator[Path]:
    """Give the path of a file to write, beside ``path``, whose place it takes at the end.

    If the block raises, ``path`` stays as it was.

    Args:
        path: The file; it need not be there, but its folder must be.
        writer: Unique name of whoever writes, where several processes may write the file at once.
    """
    aside = path.with_name(".".join(filter(None, (path.name, writer, "partial"))))
    _remove_link(aside)
    try:
        yield aside
        _move(aside, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to raise
            aside.unlink(missing_ok=True)
        raise


def _move(aside: Path, path: Path) -> None:
    try:
        aside.replace(path)
    except OSError as error:
        error.filename = str(path)  # of two names, the one that somebody knows
        raise


def _remove_link(path: Path) -> None:
    """Remove a link, through which something else would be written."""
    if path.is_symlink():
        path.unlink()


def replace_text(path: Path, text: str) -> None:
    """Write a file's text in UTF-8; a reader sees the old one or the new one."""
    with replacing_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new, empty folder beside ``path``, whose place it takes at the end.

    If the block raises, ``path`` stays as it was. If the process is killed at the very end, the old folder may be
    found beside it, as ``.NAME.old``; no system replaces a folder that holds something in one step.

    Args:
        path: The folder; it need not be there, nor what it is in.
    """
    aside, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")  # no names of a user's
    for place in (aside, old):
        _remove_link(place)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _remove_link(path)
    if path.exists():
        path.rename(old)
    aside.rename(path)
    shutil.rmtree(old, ignore_errors=True)
