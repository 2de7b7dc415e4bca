"""A trial on disk: adapter, tensors and progress. Written aside and renamed; imports no torch."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.results.atomic_write import replacing_folder
from analysis.results.strict_json import is_count, is_number
from trainables.adapters import CONFIG, WEIGHTS

ADAPTER = "adapter"
BEST, UNIFORM = "best_adapter", "best_adapter_uniform"  # of a whole search, beside its report
UNVERIFIED = "_unverified"  # ends the name of a folder that was not seen to have the loss that was measured
SESSION, LAST = "session", "checkpoint_last"  # a trial's folder in a checkpoint of Ray's, and the checkpoint of a stop
STATE = "state.safetensors"
META = "session.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """A session's progress, without its tensors. The schedule and the data's position follow from the step.

    Args:
        step: Optimizer steps done.
        tokens: Learned tokens seen.
        seconds: Training time spent, evaluations included.
        recent: As ``Learner.recent``; none at a report.
        base: Identity of the frozen base that the adapter belongs to.
        allocation: Digest of the allocation.
    """

    step: int
    tokens: int
    seconds: float
    base: str
    allocation: str
    recent: Mapping[str, Any] = field(default_factory=dict)


def write(folder: Path, progress: Progress, write_tensors: Callable[[Path], None]) -> None:
    """Write a checkpoint into ``folder``; a reader sees all of it or nothing.

    Args:
        folder: Replaced if it exists.
        progress: The session's progress.
        write_tensors: Writes ``STATE`` and the folder ``ADAPTER`` into the given folder.
    """
    with replacing_folder(folder) as aside:
        write_tensors(aside)
        values = {name: getattr(progress, name) for name in Progress.__slots__}
        (aside / META).write_text(json.dumps({**values, "sha256": _digest(aside, values)}))


def fitting(folder: Path, expected: Mapping[str, str]) -> Progress:
    """Return the progress of a checkpoint that a session may continue from.

    Args:
        folder: As for ``write``.
        expected: ``base`` and ``allocation`` of the session that continues.

    Raises:
        ValueError: It belongs to another base or to another allocation, or is not as it was written.
    """
    progress = progress_of(folder)
    if progress is None:
        raise ValueError(f"checkpoint {folder}: not as it was written")
    for name, value in expected.items():
        if getattr(progress, name) != value:
            raise ValueError(f"checkpoint {folder}: {name} is {getattr(progress, name)}, this session has {value}")
    return progress


def progress_of(folder: Path) -> Progress | None:
    """Return a checkpoint's progress; None if a file of it is missing, cut off or changed, or says what none can be."""
    try:
        values = json.loads((folder / META).read_text(encoding="utf-8"))
        digest = values.pop("sha256")
        progress = Progress(**values)
        return progress if _can_be(progress) and digest == _digest(folder, values) else None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def _can_be(progress: Progress) -> bool:
    """Return True if a progress has what it should have: somebody else may have written it, digest and all."""
    counts, names, recent = (progress.step, progress.tokens), (progress.base, progress.allocation), progress.recent
    if not all(is_count(value) and value >= 0 for value in counts) or not all(isinstance(name, str) for name in names):
        return False
    if not isinstance(recent, dict) or not all(type(value) in {int, float} for value in recent.values()):
        return False
    return is_number(progress.seconds) and progress.seconds >= 0


def newest(folders: Iterable[Path]) -> Path | None:
    """Return the intact checkpoint with the most steps; None if there is none."""
    steps = {folder: progress.step for folder in folders if (progress := progress_of(folder)) is not None}
    return max(steps, key=lambda folder: (steps[folder], str(folder)), default=None)


def _digest(folder: Path, values: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in (folder / STATE, folder / ADAPTER / WEIGHTS, folder / ADAPTER / CONFIG):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
