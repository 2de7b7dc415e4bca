"""Early stopping that a NaN cannot disturb."""

import math
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tuning.plan import SearchPlan
from tuning.study import METRIC


class FiniteASHA(ASHAScheduler):  # type: ignore[misc]
    """ASHA that never records a value that is not finite.

    ``nan < cutoff`` is false, so ASHA lets a NaN trial run on, and a NaN or two infinities in a rung make its cutoff
    NaN, which then cuts nobody. A diverged trial ends itself; here it leaves no trace in the rungs.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial whose loss is not finite; let ASHA decide about the others."""
        if not math.isfinite(result.get(METRIC, math.nan)):
            return str(TrialScheduler.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record a final finite loss."""
        if math.isfinite(result.get(METRIC, math.nan)):
            super().on_trial_complete(tune_controller, trial, result)


def make_scheduler(plan: SearchPlan) -> TrialScheduler:
    """Return the scheduler of ``plan``: at each rung ASHA lets the better half go on."""
    if plan.scheduler == "fifo" or plan.official:
        return FIFOScheduler()
    return FiniteASHA(metric=METRIC, mode="min", max_t=plan.reports, grace_period=1, reduction_factor=2)
