"""A trial on disk: adapter, tensors and progress. Written aside and renamed; imports no torch."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.results.atomic_write import replace_text, replacing_folder
from analysis.results.strict_json import is_count, is_number
from trainables.adapters import CONFIG, WEIGHTS

ADAPTER = "adapter"
BEST, UNIFORM = "best_adapter", "best_adapter_uniform"  # of a whole search, beside its report
UNVERIFIED = "_unverified"  # ends the name of a folder that was not seen to have the loss that was measured
SESSION, LAST = "session", "checkpoint_last"  # a trial's folder in a checkpoint of Ray's, and the checkpoint of a stop
STATE = "state.safetensors"
META = "session.json"
HAS_STATE = "has_state"


@dataclass(frozen=True, slots=True)
class Progress:
    """A session's progress, without its tensors. The schedule and the data's position follow from the step.

    Args:
        step: Optimizer steps done.
        tokens: Learned tokens seen.
        seconds: Training time spent, evaluations included.
        recent: As ``Learner.recent``; none at a report.
        has_state: Whether ``STATE`` is kept, so that a session can continue. Written only where it is not.
        base: Identity of the frozen base that the adapter belongs to.
        allocation: Digest of the allocation.
    """

    step: int
    tokens: int
    seconds: float
    base: str
    allocation: str
    recent: Mapping[str, Any] = field(default_factory=dict)
    has_state: bool = True


def write(folder: Path, progress: Progress, write_tensors: Callable[[Path], None]) -> None:
    """Write a checkpoint into ``folder``; a reader sees all of it or nothing.

    Args:
        folder: Replaced if it exists.
        progress: The session's progress.
        write_tensors: Writes ``STATE`` and the folder ``ADAPTER`` into the given folder.
    """
    with replacing_folder(folder) as aside:
        write_tensors(aside)
        values = {name: getattr(progress, name) for name in Progress.__slots__ if name != HAS_STATE}
        (aside / META).write_text(json.dumps({**values, "sha256": _digest(aside, values)}))


def drop_state(folder: Path) -> None:
    """Remove what a session would continue with from a whole checkpoint; the adapter stays, and can be relied on.

    Raises:
        OSError: Something cannot be written or removed.
    """
    progress = progress_of(folder)
    if progress is not None and progress.has_state:  # noted first: cut off in between, it is still whole
        values = {name: getattr(progress, name) for name in Progress.__slots__} | {HAS_STATE: False}
        replace_text(folder / META, json.dumps({**values, "sha256": _digest(folder, values)}))
    (folder / STATE).unlink(missing_ok=True)


def fitting(folder: Path, expected: Mapping[str, str]) -> Progress:
    """Return the progress of a checkpoint that a session may continue from.

    Args:
        folder: As for ``write``.
        expected: ``base`` and ``allocation`` of the session that continues.

    Raises:
        ValueError: It belongs to another base or to another allocation, is not as it was written, or has the adapter
            alone.
    """
    progress = progress_of(folder)
    if progress is None:
        raise ValueError(f"checkpoint {folder}: not as it was written")
    if not progress.has_state:
        raise ValueError(f"checkpoint {folder}: its trial has ended, and only the adapter was kept")
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
    return isinstance(progress.has_state, bool) and is_number(progress.seconds) and progress.seconds >= 0


def newest(folders: Iterable[Path], to_continue: bool = False) -> Path | None:
    """Return the intact checkpoint with the most steps, or of those to continue from; None if there is none."""
    whole = {folder: progress for folder in folders if (progress := progress_of(folder)) is not None}
    steps = {folder: progress.step for folder, progress in whole.items() if progress.has_state or not to_continue}
    return max(steps, key=lambda folder: (steps[folder], str(folder)), default=None)


def _digest(folder: Path, values: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    state = (folder / STATE,) if values.get(HAS_STATE, True) else ()
    for path in (*state, folder / ADAPTER / WEIGHTS, folder / ADAPTER / CONFIG):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
