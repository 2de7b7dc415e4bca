"""In which dtype the base lies in memory where ``--base-dtype auto`` leaves that open."""

import logging

from trainables.models.device import CPU, CUDA, device_of
from trainables.models.precision import BFLOAT16, FLOAT32, Dtype
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight

log = logging.getLogger(__name__)


def decided(plan: SearchPlan, checked: Preflight, observer: SearchObserver) -> SearchPlan:
    """Return the plan with the dtype decided; its devices must be. What is not float32 is said.

    Of a search that is taken up, whose dtype stays, it is said if this machine would choose another.
    """
    choice, why = _choice(plan, checked)
    if plan.base_dtype == "auto":
        log.info("--base-dtype auto is %s: %s", choice, why)
        if choice != FLOAT32:
            observer.noted(f"--base-dtype auto: {choice}, {why}")
        return plan.model_copy(update={"base_dtype": choice})
    if plan.base_dtype != choice and plan.name is not None and plan.run_dir.is_dir():
        observer.noted(f"--base-dtype {plan.base_dtype}, as this search began; here auto would be {choice}, {why}")
    return plan


def _choice(plan: SearchPlan, checked: Preflight) -> tuple[Dtype, str]:
    """Return what ``auto`` means on the machine that trains, and why."""
    if plan.model == "bundled":
        return FLOAT32, "for the bundled model is small"
    if plan.device == CUDA:
        if device_of(CUDA).has_bfloat16 is False:
            return FLOAT32, "for this GPU has no bfloat16"
        return BFLOAT16, "which takes half the memory of float32"
    if plan.device != CPU or not device_of(CPU).has_bfloat16:
        return FLOAT32, "for nothing here computes faster in bfloat16"
    from trainables.models.block_speed import ENOUGH, bfloat16_gain

    workload = checked.workload
    tokens = workload.micro_batch * workload.pack_size * workload.data.max_length
    gain = bfloat16_gain(checked.shape.sites, tokens)
    why = f"in which a block is computed {gain:.1f} times as fast as in float32"
    return (BFLOAT16, why) if gain >= ENOUGH else (FLOAT32, f"since bfloat16 is only {gain:.1f} times as fast")
