"""A trial on disk: adapter, optimizer, random state and step. Written aside and renamed; tensors are safetensors."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trainables.adapters import CONFIG, WEIGHTS, Adapter, load_weights

ADAPTER = "adapter"
BEST = "best_adapter"  # of a whole search, beside its report
STATE = "state.safetensors"
META = "session.json"
RNG, OWN = "rng", "own/"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a session stands besides its tensors. The schedule and the data's position follow from the step.

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


def write(
    folder: Path,
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    rng: torch.Tensor,
    progress: Progress,
    own: Mapping[str, torch.Tensor],
) -> None:
    """Write a checkpoint into ``folder``; a reader sees all of it or nothing.

    Args:
        folder: Replaced if it is there.
        adapter: As it would be used now.
        optimizer: Its moments are kept.
        rng: State of the random numbers.
        progress: Where the session stands.
        own: Tensors that a kind of trial has besides; empty for most.
    """
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    adapter.save(aside / ADAPTER)
    kept = {OWN + name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    save_file(_flat(optimizer) | kept | {RNG: rng.contiguous()}, aside / STATE)
    values = {name: getattr(progress, name) for name in Progress.__slots__}
    (aside / META).write_text(json.dumps({**values, "sha256": _digest(aside, values)}))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def read(folder: Path, expected: Mapping[str, str]) -> tuple[Progress, dict[str, Any]]:
    """Read a checkpoint.

    Args:
        folder: Where ``write`` put it.
        expected: ``base`` and ``allocation`` of the session that continues.

    Returns:
        Where it stands; ``weights`` under PEFT's names, ``optimizer`` as parameter number -> its state, ``own`` and
        ``rng``.

    Raises:
        ValueError: It belongs to another base or to another allocation, or is not as it was written.
    """
    progress = progress_of(folder)
    if progress is None:
        raise ValueError(f"checkpoint {folder}: not as it was written")
    for name, value in expected.items():
        if getattr(progress, name) != value:
            raise ValueError(f"checkpoint {folder}: {name} is {getattr(progress, name)}, this session has {value}")
    tensors = load_file(folder / STATE)
    rng = tensors.pop(RNG)
    own = {key.removeprefix(OWN): tensors.pop(key) for key in [*tensors] if key.startswith(OWN)}
    optimizer: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".")
        optimizer.setdefault(int(number), {})[name] = tensor
    return progress, {"optimizer": optimizer, "own": own, "rng": rng, "weights": load_weights(folder / ADAPTER)}


def progress_of(folder: Path) -> Progress | None:
    """Return where a checkpoint stands; None if a file of it is missing, cut off or changed."""
    try:
        values = json.loads((folder / META).read_text())
        digest = values.pop("sha256")
        return Progress(**values) if digest == _digest(folder, values) else None
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def newest(folders: Iterable[Path]) -> Path | None:
    """Return the checkpoint that is furthest, of those that are whole."""
    steps = {folder: progress.step for folder in folders if (progress := progress_of(folder)) is not None}
    return max(steps, key=lambda folder: (steps[folder], str(folder)), default=None)


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": tensor.detach().cpu().contiguous()
        for number, values in state.items()
        for name, tensor in values.items()
    }


def _digest(folder: Path, values: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in (folder / STATE, folder / ADAPTER / WEIGHTS, folder / ADAPTER / CONFIG):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
