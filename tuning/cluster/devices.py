"""Which devices a search trains on where ``--gpus-per-trial auto`` leaves that open."""

import logging
from typing import Any

import ray

from trainables.models.device import CUDA, MPS, here, is_apple
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan

log = logging.getLogger(__name__)


def decided(plan: SearchPlan, observer: SearchObserver) -> SearchPlan:
    """Return the plan with its devices decided, and say which; Ray must be there.

    All GPUs that Ray has now are used, one for each pack or, in processes of their own, for each trial; else the GPU of
    an Apple chip, of which Ray knows nothing, where that is this machine's; else CPUs.
    """
    if plan.gpus_per_trial != "auto":
        return plan
    choice, why = _choice(plan, int(ray.cluster_resources().get("GPU", 0)))
    observer.noted(f"--gpus-per-trial auto: {why}")
    log.info("--gpus-per-trial auto is %s: %s", choice, why)
    return plan.model_copy(update={"gpus_per_trial": choice})


def _choice(plan: SearchPlan, gpus: int) -> tuple[float | str, str]:
    if gpus and (seen := _seen_by_a_trial()) == CUDA:
        return 1.0, f"training on {gpus} GPU{'s' if gpus > 1 else ''}"
    if gpus:
        return 0.0, f"training on CPU, for PyTorch sees none of Ray's {gpus} GPU(s), only {seen}"
    if plan.ray_address is not None:
        return 0.0, "training on CPU, for this Ray has no GPU now; --gpus-per-trial 1 waits for one"
    if is_apple() and here().name == MPS:
        return MPS, "training on this machine's GPU (mps)"
    return 0.0, "training on CPU, for there is no GPU"


def memory_there(plan: SearchPlan) -> float | None:
    """Return the memory of a GPU of Ray's, in bytes; None where trials train on no such."""
    if plan.device != CUDA:
        return None
    total: float = ray.get(ray.remote(num_gpus=plan.gpus, num_cpus=0)(_total_bytes).remote())
    return total or None


def _total_bytes() -> float:
    return here().total_bytes()


def _seen_by_a_trial() -> str:
    """Return the name of the best device that a process sees to which Ray gives a GPU."""
    name: str = ray.get(ray.remote(num_gpus=1, num_cpus=0)(_best_name).remote())
    return name


def _best_name() -> Any:
    return here().name
