"""How much disk a search needs, and whether it is there."""

import os
import shutil
from pathlib import Path

from trainables.models.device import CPU
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight

KEPT_CHECKPOINTS = 2
FLOAT32_BYTES = 4
BYTES_PER_PARAMETER = 3 * FLOAT32_BYTES
"""An adapter and AdamW's two moments of it, float32."""
TRIAL_BYTES = 600_000
"""Of a trial's other files: Ray's results, a picture of its ranks, its share of MLflow's store and of the report."""
FIXED_BYTES = 20_000_000


def checkpoint_bytes(checked: Preflight) -> int:
    """Return the size of a checkpoint of a trial that spends the whole budget."""
    return BYTES_PER_PARAMETER * checked.workload.budget.params + TRIAL_BYTES // 10


def adapter_bytes(checked: Preflight) -> int:
    """Return what is kept of such a trial once it has ended: its adapter."""
    return FLOAT32_BYTES * checked.workload.budget.params + TRIAL_BYTES // 10


def needed_bytes(plan: SearchPlan, checked: Preflight, done: int = 0) -> int:
    """Return about how much a search writes at most.

    Trials that train have checkpoints to go on from. Of those that have ended adapters are kept, and of controls not
    even these; of trials that train at once, the last may end after all others.

    Args:
        plan: The search.
        checked: What its preflight found.
        done: Trials that have been written already.
    """
    trials = max(0, plan.trials + plan.most_confirmations - done)
    kept = max(0, plan.trials + plan.most_handed_out - done)
    training = min(trials, _at_once(plan, checked))
    checkpoints = training * (KEPT_CHECKPOINTS + 1) * checkpoint_bytes(checked)
    return FIXED_BYTES + checkpoints + kept * adapter_bytes(checked) + trials * TRIAL_BYTES


def _at_once(plan: SearchPlan, checked: Preflight) -> int:
    """Return about how many trials train at once where a search has this machine."""
    if plan.max_concurrent_trials:
        return plan.max_concurrent_trials
    processes = (os.cpu_count() or 1) // max(1, plan.cpus_per_trial) if plan.device == CPU else 1
    return max(1, int(processes)) * checked.workload.pack_size


def reserve_bytes(checked: Preflight) -> int:
    """Return what must be free for a search to go on: the next checkpoints, and leaving everything in order."""
    return 4 * checkpoint_bytes(checked) + FIXED_BYTES // 4


def check(plan: SearchPlan, checked: Preflight, done: int = 0) -> None:
    """Look whether there is room.

    Raises:
        ValueError: There is less than the search is about to write.
    """
    folder = Path(plan.runs_dir).resolve()
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, needed_bytes(plan, checked, done)
    if free < needed:
        raise ValueError(
            f"--runs-dir {plan.runs_dir}: {free / 1e6:,.0f} MB free, about {needed / 1e6:,.0f} MB needed; make room "
            f"there, or give a folder on another disk"
        )
