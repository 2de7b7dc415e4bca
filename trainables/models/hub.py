"""Hub ids: a commit is looked up once, as ``ORG/NAME@COMMIT``, and every process reads the files of that commit."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from analysis.results.messages import first_line

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
BUILT_IN = ("bundled", "pydoc")
LONGEST = 96
FILE_NAME = re.compile(r"(?i)\.(txt|jsonl?|csv|tsv|parquet|arrow|xlsx?|pkl|gz|zip|zst)$")


def is_hub_id(name: str) -> bool:
    """Return True if ``name``, without its commit, has the form of a hub id and is no path on this machine."""
    repo, _ = split(name)
    well_formed = HUB_ID.fullmatch(repo) is not None and len(repo) <= LONGEST and not FILE_NAME.search(repo)
    return well_formed and repo not in BUILT_IN and not os.path.exists(name)


def split(reference: str) -> tuple[str, str | None]:
    """Return the id and the commit, or None, of ``ORG/NAME`` or ``ORG/NAME@COMMIT``."""
    repo, _, commit = reference.partition("@")
    return repo, commit or None


def commit_of(name: str) -> str | None:
    """Return the commit of a hub id; None if it has none, or is a path on this machine."""
    return split(name)[1] if is_hub_id(name) else None


def at(repo: str, commit: str | None) -> str:
    """Return ``ORG/NAME@COMMIT``, or the name unchanged if there is no commit."""
    return f"{repo}@{commit}" if commit else repo


def pinned(kind: str, repo: str, revision: str | None, flag: str = "") -> str:
    """Return ``ORG/NAME@COMMIT`` for a hub id, and anything else unchanged.

    Args:
        kind: Of the repository, ``model`` or ``dataset``.
        repo: The flag's value; a commit that it has is kept.
        revision: Branch, tag or commit; the default branch if None.
        flag: Its name, if that is not ``kind``.

    Raises:
        ValueError: The revision does not exist, or is of something that has none.
    """
    if not is_hub_id(repo):
        if revision is not None:
            raise ValueError(f"--{kind}-revision {revision}: --{kind} {repo} is no hub id and has none; leave it out")
        return repo
    repo, commit = split(repo)
    revision = revision or commit
    from huggingface_hub import resolve_revision  # as below here, since it takes long to import and few need it
    from huggingface_hub.errors import HTTPError, RevisionResolutionError  # type: ignore[attr-defined]

    try:
        return f"{repo}@{resolve_revision(repo, repo_type=kind, revision=revision).resolved}"
    except (OSError, ValueError, HTTPError, RevisionResolutionError) as error:
        raise ValueError(_absent(flag or kind, repo, revision, error)) from error


def check_at_once(kind: str, name: str, revision: str | None, flag: str = "") -> None:
    """Check of a hub id what can be known without asking the hub; what was fetched before is right.

    Args:
        kind: Of the repository, ``model`` or ``dataset``.
        name: The flag's value.
        revision: Branch, tag or commit, if one is given.
        flag: Its name, if that is not ``kind``.

    Raises:
        ValueError: It may be a path below a folder that is here, or the hub is not to be asked.
    """
    from huggingface_hub import constants

    repo, commit = split(name)
    if os.path.isdir(os.path.join(constants.HF_HUB_CACHE, f"{kind}s--{repo.replace('/', '--')}", "snapshots")):
        return
    parent, _, rest = repo.partition("/")
    if rest and not (revision or commit) and os.path.isdir(parent):
        raise ValueError(
            f"--{flag or kind} {name}: the folder {parent} here has no {rest}; correct the path, or if a hub id is "
            f"meant, add its branch: {name}@main"
        )
    if constants.HF_HUB_OFFLINE:
        raise ValueError(_absent(flag or kind, repo, revision or commit, OSError("HF_HUB_OFFLINE is set")))


def folder(flag: str, reference: str, patterns: Sequence[str]) -> Path:
    """Return a folder with the files of a commit that match ``patterns``; missing ones are downloaded.

    Raises:
        ValueError: They cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    repo, commit = split(reference)
    try:
        return Path(snapshot_download(repo, repo_type=flag, revision=commit, allow_patterns=list(patterns)))
    except (OSError, ValueError, HTTPError) as error:
        raise ValueError(_absent(flag, repo, commit, error)) from error


def file_names(flag: str, reference: str) -> set[str]:
    """Return the names of a commit's files, folders before them; those in the local cache if there is no hub.

    Raises:
        ValueError: They cannot be listed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, HTTPError  # type: ignore[attr-defined]

    repo, commit = split(reference)
    try:
        return {file.filename for file in snapshot_download(repo, repo_type=flag, revision=commit, dry_run=True)}
    except DryRunError:
        here = folder(flag, reference, ())
        return {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    except (OSError, ValueError, HTTPError) as error:
        raise ValueError(_absent(flag, repo, commit, error)) from error


def _absent(flag: str, repo: str, revision: str | None, error: Exception) -> str:
    option = f" --{flag}-revision {revision}" if revision else ""
    reason = first_line(error, 250).split(". ")[0]
    return (
        f"--{flag} {repo}{option}: nothing of that name here, and not to be had from the hub ({reason}); give a path "
        f"or a hub id, and HF_TOKEN for a private one"
    )
