"""A plan checked by a host, which has torch, before it loads the base. Imports no Ray Tune, which it has not."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trainables.models.device import CUDA, device_of
from tuning.lifecycle.search_log import heard_by
from tuning.observer import SearchObserver, SearchSize
from tuning.plan import time_limit
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import base_dtype, memory, preflight, preview
from tuning.preflight.preflight import Preflight


@dataclass(frozen=True, slots=True)
class Checked:
    """What a host has found out about a plan.

    Args:
        plan: The plan, its dtype decided.
        preflight: What is known of it, and how it fits into memory.
        size: How large the search is.
        notes: Lines for an observer.
        logged: Name of a logger, level and message of what was logged.
    """

    plan: SearchPlan
    preflight: Preflight
    size: SearchSize
    notes: Sequence[str]
    logged: Sequence[tuple[str, int, str]]


def checked_here(plan: SearchPlan, folder: str, threads: int) -> Checked:
    """Check a plan in this process, a host's, before it loads the base.

    Args:
        plan: The search, its devices decided.
        folder: The search's working directory, from which paths lead.
        threads: Of the products by which the machine's speed is told; Ray gives a host one.

    Raises:
        ValueError: As of ``preflight.check`` and ``memory.planned``.
    """
    import torch

    from trainables.data.preparation import prepare

    torch.set_num_threads(threads)
    said, notes = _Said(), _Notes()
    with contextlib.chdir(folder), heard_by(said):
        checked = preflight.check(plan)
        plan = in_time(plan, checked, notes)
        size = preview.size(plan, checked)
        total = device_of(CUDA).total_bytes() if plan.device == CUDA else None
        plan, checked = fitted(plan, checked, total, notes)
    prepare.cache_clear()  # the texts, which nobody needs any more
    return Checked(plan, checked, size, notes.lines, said.lines)


def in_time(plan: SearchPlan, checked: Preflight, observer: SearchObserver) -> SearchPlan:
    """Return a plan with what its time limit allows, and say so; as it is without one."""
    if plan.time_limit is None:
        return plan
    plan = time_limit.planned(plan, preview.run_seconds(plan, checked), checked.has_verdict)
    observer.planned(plan)
    observer.noted(time_limit.sentence(plan))
    return plan


def fitted(
    plan: SearchPlan, checked: Preflight, total: float | None, observer: SearchObserver
) -> tuple[SearchPlan, Preflight]:
    """Return a plan and what is known of it with dtype and passes decided.

    Args:
        plan: The search, its devices decided.
        checked: What is known of it.
        total: Memory of the GPU that trains, in bytes; None where none does.
        observer: Hears what was decided.

    Raises:
        ValueError: As ``memory.planned``.
    """
    checked = replace(checked, workload=plan.trained_with(checked.workload))
    plan = base_dtype.decided(plan, checked, observer)
    checked = replace(checked, workload=plan.trained_with(checked.workload))
    return plan, memory.planned(plan, checked, total or memory.bytes_here(plan), observer)


@dataclass
class _Notes(SearchObserver):
    """Keeps what is noted; the plan of a time limit is told by whoever asked."""

    lines: list[str] = field(default_factory=list)

    def noted(self, line: str) -> None:
        self.lines.append(line)


class _Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, record.getMessage()))
