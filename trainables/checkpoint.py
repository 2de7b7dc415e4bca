"""A trial on disk: adapter, optimizer, random state and step, written aside and renamed."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.adapters import Adapter, load_weights

STATE = "state.pt"
META = "session.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a session stands besides its tensors.

    Args:
        step: Optimizer steps done.
        tokens: Learned tokens seen.
        seconds: Training time spent, evaluations included.
        base: Identity of the frozen base that the adapter belongs to.
        allocation: Digest of the allocation.
    """

    step: int
    tokens: int
    seconds: float
    base: str
    allocation: str


def write(
    folder: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, rng: torch.Tensor, progress: Progress
) -> None:
    """Write a checkpoint into ``folder``; a reader sees all of it or nothing."""
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    adapter.save(aside / "adapter")
    torch.save({"optimizer": optimizer.state_dict(), "rng": rng}, aside / STATE)
    values = {name: getattr(progress, name) for name in Progress.__slots__}
    (aside / META).write_text(json.dumps(values))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def read(folder: Path, expected: Mapping[str, str]) -> tuple[Progress, dict[str, Any]]:
    """Read a checkpoint.

    Args:
        folder: Where ``write`` put it.
        expected: ``base`` and ``allocation`` of the session that continues.

    Raises:
        ValueError: It belongs to another base or to another allocation.
    """
    progress = Progress(**json.loads((folder / META).read_text()))
    for name, value in expected.items():
        if getattr(progress, name) != value:
            raise ValueError(f"checkpoint {folder}: {name} is {getattr(progress, name)}, this session has {value}")
    state = torch.load(folder / STATE, weights_only=True)
    return progress, {**state, "weights": load_weights(folder / "adapter")}
