"""What identifies a base model: the digest of its files, or its hub id."""

import functools
import hashlib
from pathlib import Path

from trainables.models import hub
from trainables.models.files import resolve

TEMPLATE = ".jinja"
PARTS = {".safetensors", ".json", ".txt", ".model", TEMPLATE}  # the last three are of tokenizers and their templates


@functools.lru_cache
def identity(model: str) -> str:
    """Return a SHA-256 over a local model's files, or the id with its commit for a hub model."""
    if hub.is_hub_id(model):
        return model
    return _digest(model, PARTS)


def in_todays_form(model: str, base: str | None) -> str | None:
    """Return what a model was identified by, as ``identity`` has it now if it is the same model.

    Until November 2026 templates in files of their own were no part of it: a search of then says nothing of them.
    """
    if base is None or hub.is_hub_id(model) or not any(Path(resolve(model)).glob(f"*{TEMPLATE}")):
        return base
    return identity(model) if base == _digest(model, PARTS - {TEMPLATE}) else base


def has_changed(model: str, base: str) -> bool:
    """Return True if a model's files are no longer those of which ``identity`` was ``base``."""
    return identity.__wrapped__(model) != base


def check_unchanged(model: str, base: str | None) -> None:
    """Check that a model is the one that a search had.

    Args:
        model: As ``Workload.model``.
        base: Its ``identity`` then; None where no file says.

    Raises:
        ValueError: It is another.
    """
    if in_todays_form(model, base) not in {None, now := identity(model)}:
        raise ValueError(
            f"--model {model}: its files have changed since the search, SHA-256 {now[:12]}, then {str(base)[:12]}; "
            f"put back those that it had"
        )


def _digest(model: str, parts: set[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(resolve(model)).iterdir()):
        if path.suffix in parts:
            digest.update(path.name.encode() + _sha256(path))
    return digest.hexdigest()


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:  # a shard may be larger than the free memory
        return hashlib.file_digest(file, "sha256").digest()
