"""What identifies a base model: the digest of its files, or its hub id."""

import functools
import hashlib
from pathlib import Path

from trainables.models import hub
from trainables.models.files import resolve

PARTS = {".safetensors", ".json", ".txt", ".model", ".jinja"}  # the last three are of tokenizers and their templates


@functools.lru_cache
def identity(model: str) -> str:
    """Return a SHA-256 over a local model's files, or the id with its commit for a hub model."""
    if hub.is_hub_id(model):
        return model
    digest = hashlib.sha256()
    for path in sorted(Path(resolve(model)).iterdir()):
        if path.suffix in PARTS:
            digest.update(path.name.encode() + _sha256(path))
    return digest.hexdigest()


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
    if base not in {None, now := identity(model)}:
        raise ValueError(
            f"--model {model}: its files have changed since the search, SHA-256 {now[:12]}, then {str(base)[:12]}; "
            f"put back those that it had"
        )


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:  # a shard may be larger than the free memory
        return hashlib.file_digest(file, "sha256").digest()
