"""What only measuring tells, where the trials run: how many share a GPU, the base's loss, and strategies' evidence."""

import logging
import math
import uuid
from dataclasses import asdict, replace
from pathlib import Path

import ray
from pydantic import TypeAdapter
from safetensors import SafetensorError

from analysis.results import journal
from analysis.results.atomic_write import replacing_file
from analysis.results.messages import first_line
from strategies import STRATEGIES
from strategies.baseline import Baseline
from strategies.measurement import Measured, NotMeasurable
from trainables.actors.host_registry import Hosts
from trainables.evidence.kept import format_of, keep
from trainables.models.coverage import Coverage, cache_key
from trainables.models.device import CPU, MPS
from trainables.models.free_memory import free_bytes
from trainables.spec import Workload
from tuning.cluster import hosting
from tuning.cluster.hosting import ask, release
from tuning.lifecycle.stop import Stop
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import learning_rate
from tuning.preflight.preflight import Preflight, with_coverage

FLOAT32_BYTES = 4
BASE_LOSSES = {"validation": "eval_loss", "test": "test_loss"}
"""Split -> the base's loss on it, as ``RunInfo.base_losses`` calls it."""
log = logging.getLogger(__name__)


def measured(
    plan: SearchPlan, preflight: Preflight, hosts: Hosts, observer: SearchObserver
) -> tuple[SearchPlan, Preflight]:
    """Add what only measuring tells: trials that share a GPU, what strategies score from, the base's loss, a rate.

    The base is measured on the validation split. The test split stays closed until the trials are measured on it.

    Args:
        plan: The search.
        preflight: What is known of it; a base that was measured before is not measured again.
        hosts: Who measures.
        observer: Hears that it trains elsewhere than was asked for.

    Raises:
        ValueError: The base model does not load, or cannot be measured, or two measurements have a kind in common.
    """
    try:
        plan, preflight, coverage = _where_it_trains(plan, preflight, hosts, observer)
        preflight = with_coverage(plan, preflight, coverage)
        log.info("%s", preflight.shape.coverage)
        workload = preflight.workload
        hosts = hosts.sharing(workload)
        if plan.pack_size_is_open:
            plan = plan.model_copy(update={"pack_size": ask(plan, hosts, "slots_that_fit")})
            workload = replace(workload, pack_size=plan.trials_per_pack)
            log.info("trials that fit on a device together: %d", plan.trials_per_pack)
        for name in preflight.measurements:
            workload = _with(workload, name, _measured(plan, workload, preflight.corpus_sha256, name, hosts))
        losses = preflight.base_losses or base_loss(plan, hosts, "validation", observer)
        plan, bracket = learning_rate.centred(plan, hosts.sharing(workload), observer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise
    finally:
        release(plan, hosts)
    return plan, replace(preflight, workload=workload, base_losses=losses, bracket=bracket)


def base_loss(
    plan: SearchPlan, hosts: Hosts, split: str, observer: SearchObserver, stop: Stop | None = None
) -> dict[str, float]:
    """Have a host measure the untouched base on a split.

    Args:
        plan: The search.
        hosts: Who measures.
        split: A key of ``BASE_LOSSES``.
        observer: Hears if it cannot be measured.
        stop: Says whether the answer is still wanted.

    Returns:
        As ``RunInfo.base_losses``; nothing, and says so, if it cannot be measured.

    Raises:
        Stopped: The answer is not wanted any more.
    """
    try:
        loss: float = ask(plan, hosts, "base_loss", split, stop=stop)
    except ray.exceptions.RayError as error:
        log.warning("the untouched base could not be measured on the %s split", split, exc_info=True)
        reason = first_line(getattr(error, "cause", None) or error)
        observer.warned(f"the untouched base could not be measured on the {split} split: {reason}")
        return {}
    log.info("the untouched base has %r on the %s split", loss, split)
    return {BASE_LOSSES[split]: loss} if math.isfinite(loss) else {}


def _where_it_trains(
    plan: SearchPlan, preflight: Preflight, hosts: Hosts, observer: SearchObserver
) -> tuple[SearchPlan, Preflight, Coverage]:
    """Return what can be adapted; where an Apple chip's GPU does not compute that right, on the CPU, and say so."""
    try:
        return plan, preflight, _coverage(plan, preflight, hosts)
    except ray.exceptions.RayTaskError as error:
        if plan.device != MPS or not isinstance(error.cause, ValueError):
            raise
        observer.noted(f"training on CPU, for on this machine's GPU {first_line(error.cause)}")
        plan = plan.model_copy(update={"gpus_per_trial": 0.0})
        preflight = replace(preflight, workload=plan.trained_with(preflight.workload))
        hosting.end(hosts)
        return plan, preflight, _coverage(plan, preflight, hosts.sharing(preflight.workload))


def _coverage(plan: SearchPlan, preflight: Preflight, hosts: Hosts) -> Coverage:
    """Look at the sites once per model, choice and code; afterwards read from the runs folder."""
    path = coverage_path(plan, preflight)
    if (known_before := coverage_at(path)) is not None:
        return known_before
    coverage: Coverage = ask(plan, hosts, "coverage")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path, uuid.uuid4().hex) as aside:  # searches may share a folder of runs
        aside.write_text(journal.sealed(asdict(coverage)) + "\n")
    return coverage


def looked_at_here(plan: SearchPlan, preflight: Preflight) -> Preflight:
    """Return the same with what can be adapted for certain, from the runs folder or looked at by this process.

    Nothing is written. A base that does not fit into this machine's memory is left to the search.

    Raises:
        ValueError: Its adapters cannot be trusted, or the budget does not suit what can be adapted.
    """
    coverage = coverage_at(coverage_path(plan, preflight))
    if not preflight.has_weights:
        return preflight
    if coverage is None and FLOAT32_BYTES * preflight.shape.params > free_bytes():
        return preflight
    if coverage is None:
        from trainables.engine.soundness import sound_coverage_of  # a search leaves PEFT to its hosts

        coverage = sound_coverage_of(replace(preflight.workload, device=CPU))
    return with_coverage(plan, preflight, coverage)


def coverage_path(plan: SearchPlan, preflight: Preflight) -> Path:
    """Return where it is kept what can be adapted."""
    key = cache_key(preflight.workload.base, preflight.shape.coverage)
    where = f"-{MPS}" if plan.device == MPS else ""  # what the CPU computes right, it may not
    return Path(plan.runs_dir).resolve() / ".evidence" / f"{key}{where}{plan.precision.key}.coverage.json"


def coverage_at(path: Path) -> Coverage | None:
    """Return what a file says can be adapted; None if it is not there or not as it was written."""
    try:
        return TypeAdapter(Coverage).validate_python(journal.opened(path.read_bytes(), unsealed=False))
    except (OSError, ValueError):
        return None


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
    coverage = workload.coverage
    sites = f"-{coverage.digest[:16]}" if coverage and coverage.left_out else ""
    kept = (
        Path(plan.runs_dir).resolve()
        / ".evidence"
        / f"{form.key(workload, corpus_sha256)}{sites}{workload.precision.key}{form.suffix}"
    )
    try:
        measured_before = form.read(kept)
    except (OSError, ValueError, SafetensorError):  # not there, or not as it was written
        try:
            measured: Measured = ask(plan, hosts, "measure", measurement)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, NotMeasurable):
                raise ValueError(_without(plan, measurement, error.cause)) from error
            raise
        keep(measured, kept, form)
        return measured
    log.info("%s is that of %s", measurement, kept)
    return measured_before


def _without(plan: SearchPlan, measurement: str, why: NotMeasurable) -> str:
    """Return what to say of strategies whose evidence this model does not give."""
    names = [name for name in plan.strategies if STRATEGIES[name].measurement == measurement]
    others = [name for name in plan.strategies if name not in names] or [Baseline.name]
    return (
        f"--strategies {', '.join(names)}: cannot be measured on --model {plan.model} ({first_line(why)}); leave out "
        f"what needs it: --strategies {','.join(others)}"
    )
