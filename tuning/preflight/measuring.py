"""What only measuring tells, where the trials run: how many share a GPU, and what strategies score from."""

import logging
import uuid
from dataclasses import replace
from pathlib import Path

import ray
from safetensors import SafetensorError

from analysis.results import journal
from strategies.base import Evidence
from trainables.actors.host_registry import Hosts
from trainables.evidence import components, importance
from trainables.evidence.components import Components
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
        ValueError: The base model does not load, or cannot be measured.
    """
    workload = preflight.workload
    try:
        if plan.pack_size_is_open:
            plan = plan.model_copy(update={"pack_size": ask(plan, hosts, "slots_that_fit")})
            workload = replace(workload, pack_size=plan.trials_per_pack)
            log.info("trials that fit on a device together: %d", plan.trials_per_pack)
        if preflight.needs_evidence:
            workload = replace(workload, evidence=_evidence(plan, preflight, hosts))
        if preflight.needs_components:
            result = _components(plan, workload, preflight.corpus_sha256, hosts)
            workload = replace(workload, evidence={**workload.evidence, **result.evidence}, components=result.vectors)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise
    return plan, replace(preflight, workload=workload)


def _evidence(plan: SearchPlan, preflight: Preflight, hosts: Hosts) -> Evidence:
    """Measure once per model and data; afterwards read from the runs folder."""
    key = importance.cache_key(preflight.workload, preflight.corpus_sha256)
    cached = Path(plan.runs_dir).resolve() / ".evidence" / f"{key}.json"
    if (evidence_on_disk := _whole(cached)) is None:
        evidence: Evidence = ask(plan, hosts, "evidence")
        cached.parent.mkdir(parents=True, exist_ok=True)
        aside = cached.with_suffix(f".{uuid.uuid4().hex}")
        aside.write_text(journal.sealed(evidence) + "\n")
        aside.replace(cached)
        return evidence
    log.info("evidence is that of %s", cached)
    return evidence_on_disk


def _whole(path: Path) -> Evidence | None:
    """Return a file of evidence; None if it is not there or not as it was written."""
    try:
        return journal.opened(path.read_bytes(), unsealed=False)
    except (OSError, ValueError):
        return None


def _components(plan: SearchPlan, workload: Workload, corpus_sha256: str, hosts: Hosts) -> Components:
    """Measure once per model, data and budget; afterwards read from the runs folder."""
    key = components.cache_key(workload, corpus_sha256)
    cached = Path(plan.runs_dir).resolve() / ".evidence" / f"{key}.safetensors"
    try:
        measured_before = Components.read(cached)
    except (OSError, ValueError, SafetensorError):  # not there, or not as it was written
        result: Components = ask(plan, hosts, "components")
        result.save(cached)
        return result
    log.info("components are those of %s", cached)
    return measured_before
