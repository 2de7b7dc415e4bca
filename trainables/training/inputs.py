"""What a workload trains on, wherever its process runs: the base that was planned, and the examples that it carries.

Imports torch only where a base is loaded.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from trainables.data.splits import Splits, load_splits
from trainables.models.identity import identity
from trainables.spec import Workload

if TYPE_CHECKING:
    from trainables.models.base_model import BaseModel


def base_of(workload: Workload) -> "BaseModel":
    """Load the workload's base.

    A cluster's nodes may hold different files at one path, and a node may join in the middle of a search: so
    every process checks its base when it loads it, and all train on the same one.

    Raises:
        ValueError: The base on this node is not the one that the search was planned with, or it does not load.
    """
    from trainables.models.base_model import load

    if workload.base not in {None, base_digest := identity(workload.model)}:
        raise ValueError(
            f"--model {workload.model}: this node has {base_digest[:12]} there, the search was planned with "
            f"{str(workload.base)[:12]} (SHA-256); put the same folder on every node, or on storage that all share"
        )
    base = load(workload.model, workload.device, workload.precision)
    if workload.coverage is None:
        return base
    return replace(base, coverage=workload.coverage, joining=base.joining if workload.coverage.joins else None)


def splits_of(workload: Workload) -> Splits:
    """Return the workload's examples; if it carries none, they are read and tokenised."""
    return workload.splits or load_splits(workload.data, workload.model)
