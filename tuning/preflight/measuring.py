"""What only measuring tells, where the trials run: how many share a GPU, and what strategies score from."""

import logging
from dataclasses import replace
from pathlib import Path

import ray
from safetensors import SafetensorError

from strategies.measurement import Measured
from trainables.actors.host_registry import Hosts
from trainables.evidence.measurements import format_of, keep
from trainables.spec import Workload
from tuning.cluster.hosting import ask
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight

log = logging.getLogger(__name__)


def measured(plan: SearchPlan, preflight: Preflight, hosts: Hosts) -> tuple[SearchPlan, Preflight]:
    """Add what only measuring tells: how many trials share a GPU, and what strategies score from.

    Args:
        plan: The search.
        preflight: What is known of it.
        hosts: Who measures.

    Raises:
        ValueError: The base model does not load, or cannot be measured, or two measurements have a kind in common.
    """
    workload = preflight.workload
    try:
        if plan.pack_size_is_open:
            plan = plan.model_copy(update={"pack_size": ask(plan, hosts, "slots_that_fit")})
            workload = replace(workload, pack_size=plan.trials_per_pack)
            log.info("trials that fit on a device together: %d", plan.trials_per_pack)
        for name in preflight.measurements:
            workload = _with(workload, name, _measured(plan, workload, preflight.corpus_sha256, name, hosts))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise
    return plan, replace(preflight, workload=workload)


def _with(workload: Workload, measurement: str, measured: Measured) -> Workload:
    if both := workload.evidence.keys() & measured.evidence.keys():
        raise ValueError(f"{measurement}: another strategy's evidence is called {min(both)!r}, too; rename this one's")
    return replace(
        workload,
        evidence={**workload.evidence, **measured.evidence},
        tensors={**workload.tensors, measurement: measured.tensors},
    )


def _measured(plan: SearchPlan, workload: Workload, corpus_sha256: str, measurement: str, hosts: Hosts) -> Measured:
    """Measure once for all that a measurement depends on; afterwards read from the runs folder."""
    form = format_of(measurement)
    kept = Path(plan.runs_dir).resolve() / ".evidence" / f"{form.key(workload, corpus_sha256)}{form.suffix}"
    try:
        measured_before = form.read(kept)
    except (OSError, ValueError, SafetensorError):  # not there, or not as it was written
        measured: Measured = ask(plan, hosts, "measure", measurement)
        keep(measured, kept, form)
        return measured
    log.info("%s is that of %s", measurement, kept)
    return measured_before
