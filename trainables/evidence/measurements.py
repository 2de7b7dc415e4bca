"""What strategies have measured: on the frozen base, once for all trials."""

import pkgutil
from dataclasses import replace
from typing import Any

import torch

from strategies.measurement import Measure, Measured
from trainables.data.collate import Batches
from trainables.spec import Workload
from trainables.training.inputs import base_of, splits_of


def measure(workload: Workload, measurement: str, rows: int | None = None) -> Measured:
    """Measure what a strategy names.

    Args:
        workload: What the trials will share.
        measurement: As ``Strategy.measurement``.
        rows: Most rows of one pass; None takes as many as a pass of the trials has.

    Returns:
        What was measured, its tensors on the CPU and each with memory of its own.

    Raises:
        ValueError: It cannot be measured on this base and data.
    """
    function: Measure = pkgutil.resolve_name(measurement)
    base, train = base_of(workload), splits_of(workload).train
    batches = Batches(train, workload.batch_size, rows or rows_of_pass(workload), base.pad_id, base.device)
    measured = function(base, batches, workload.budget)
    return replace(measured, tensors={name: _copy(tensor) for name, tensor in measured.tensors.items()})


def rows_of_pass(workload: Workload) -> int:
    """Return the rows of one pass of the trials together, for which memory was planned; at most those of a batch."""
    return workload.rows_together


def _copy(tensor: Any) -> torch.Tensor:
    return torch.as_tensor(tensor).detach().cpu().clone(memory_format=torch.contiguous_format)
