"""Run a plan: the only file that names ``ray.tune.Tuner``."""

import functools
import itertools
import json
import logging
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler
from safetensors import SafetensorError

from strategies.base import Evidence
from trainables import checkpoint, eva, evidence, footprint
from trainables.host import FOLDER, Lease
from trainables.proxy import PackedTrainable, Packing
from trainables.spec import TrialSpec, Workload
from trainables.trainable import LoraTrainable
from tuning import access
from tuning.fixed import FixedSearch
from tuning.harvest import Harvest, experiment_name
from tuning.plan import SearchPlan
from tuning.preflight import Preflight
from tuning.record import Record
from tuning.scheduler import make_scheduler
from tuning.space import official_configs
from tuning.study import StudySearch, effective_key

RAY = "ray"
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours is in tuning.stop
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # nobody reads Ray's snapshot, and writing it takes longer with every trial
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def ray_for(plan: SearchPlan, search_id: str = "") -> Iterator[str]:
    """Join the Ray that the plan names, or start one of our own and end it afterwards; yield its dashboard's address.

    Args:
        plan: The search.
        search_id: Of the search, whose processes are found under it and by nobody else.

    Raises:
        ValueError: The Ray that is there lacks what one trial needs, or one of our own would be open to others.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is one line of progress and a row
    ours = not ray.is_initialized()
    context = _connect(plan, f"lora-rank-search-{search_id or uuid.uuid4().hex}")
    try:
        for left in ray.util.list_named_actors() if ours else ():  # by a process of this search that was killed
            ray.kill(ray.get_actor(left))
        _check_resources(plan, ray.cluster_resources())
        yield context.dashboard_url or ""
    finally:
        if ours:
            ray.shutdown()


def _connect(plan: SearchPlan, namespace: str) -> Any:
    common = {
        "namespace": namespace, "log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True,
    }  # fmt: skip
    if plan.ray_address is None:
        access.check_dashboard(plan.dashboard_host)
        access.provide_token()
        access.tighten_token()
        with access.on_loopback():
            return ray.init(address="local", dashboard_host=plan.dashboard_host, **common)
    if plan.dashboard_host != SearchPlan.model_fields["dashboard_host"].default:
        raise ValueError(
            f"--dashboard-host {plan.dashboard_host}: the Ray at --ray-address {plan.ray_address} has its dashboard "
            f"already; leave the flag out"
        )
    access.tighten_token()
    try:
        return ray.init(address=plan.ray_address, **common)
    except ray.exceptions.AuthenticationError as error:
        raise ValueError(f"--ray-address {plan.ray_address}: the Ray there has another token ({access.HOW})") from error
    except (ConnectionError, RuntimeError) as error:
        # a Ray that wants a token gives no answer to those who show none
        raise ValueError(
            f"--ray-address {plan.ray_address}: no Ray answers there ({error}); if it wants a token: {access.HOW}"
        ) from error


def _check_resources(plan: SearchPlan, found: dict[str, float]) -> None:
    for flag, kind, wanted in (
        ("--gpus-per-trial", "GPU", plan.gpus_per_trial),
        ("--cpus-per-trial", "CPU", plan.cpus_per_trial),
    ):
        if wanted > found.get(kind, 0):
            raise ValueError(
                f"{flag} {wanted:g}: Ray has {found.get(kind, 0):g} {kind}s; lower it, or add a node that has them"
            )


def unused_gpus(plan: SearchPlan) -> int:
    """Return how many GPUs Ray has if the plan uses none of them."""
    return 0 if plan.gpus_per_trial else int(ray.cluster_resources().get("GPU", 0))


def slots_of(plan: SearchPlan, found: dict[str, float]) -> int:
    """Return how many trials run at once on the resources that Ray has now."""
    wanted = plan.trial_resources
    return max(1, math.floor(min(found.get(k.upper(), 0) / n for k, n in wanted.items() if n) + 1e-6))


def measured(plan: SearchPlan, preflight: Preflight) -> tuple[SearchPlan, Preflight]:
    """Add what only measuring tells: how many trials share a GPU, and what strategies score from.

    Raises:
        ValueError: The base model does not load, or cannot be measured.
    """
    workload = preflight.workload
    try:
        if plan.pack_size_is_open:
            plan = plan.model_copy(update={"pack_size": on_device(plan, footprint.slots_that_fit, workload)})
            workload = replace(workload, pack_size=plan.trials_per_pack)
        if preflight.needs_evidence:
            workload = replace(workload, evidence=_evidence(plan, preflight))
        if preflight.needs_components:
            found = _components(plan, workload, preflight.corpus_sha256)
            workload = replace(workload, evidence={**workload.evidence, **found.evidence}, components=found.vectors)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise
    return plan, replace(preflight, workload=workload)


def _evidence(plan: SearchPlan, preflight: Preflight) -> Evidence:
    """Measure once per model and data; afterwards read from the runs folder."""
    key = evidence.cache_key(preflight.workload, preflight.corpus_sha256)
    cached = Path(plan.runs_dir).resolve() / ".evidence" / f"{key}.json"
    if (known := _whole(cached)) is None:
        found: Evidence = on_device(plan, _measure, preflight.workload)
        cached.parent.mkdir(parents=True, exist_ok=True)
        aside = cached.with_suffix(f".{uuid.uuid4().hex}")
        aside.write_text(json.dumps(found, indent=1))
        aside.replace(cached)
        return found
    return known


def _whole(path: Path) -> Evidence | None:
    """Return a file of evidence; None if it is not there or was cut off."""
    try:
        found: Evidence = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found


def _components(plan: SearchPlan, workload: Workload, corpus_sha256: str) -> eva.Components:
    """Measure once per model, data and budget; afterwards read from the runs folder."""
    cached = Path(plan.runs_dir).resolve() / ".evidence" / f"{eva.cache_key(workload, corpus_sha256)}.safetensors"
    try:
        return eva.Components.read(cached)
    except (OSError, ValueError, SafetensorError):  # not there, or cut off
        found: eva.Components = on_device(plan, _measure_components, workload)
        found.save(cached)
        return found


def on_device(plan: SearchPlan, function: Any, *arguments: Any) -> Any:
    """Call a function where the trials run, with their resources."""
    task = ray.remote(num_cpus=plan.cpus_per_trial, num_gpus=plan.gpus_per_trial)(function)
    return ray.get(task.remote(*arguments))


def _measure(workload: Workload) -> Evidence:
    import torch

    torch.set_num_threads(workload.threads)
    return evidence.measure(workload)


def _measure_components(workload: Workload) -> eva.Components:
    import torch

    torch.set_num_threads(workload.threads)
    return eva.measure(workload)


def run(
    plan: SearchPlan, trainable: Any, search: StudySearch | FixedSearch, trials: int, harvest: Harvest, phase: str
) -> None:
    """Train trials until there are as many as wanted, or no more configurations, or the search is to stop.

    ``harvest`` has the record, which receives a row as each trial ends.

    Args:
        plan: The search.
        trainable: As ``workers`` gives it.
        search: What suggests configurations; those that are known beforehand are all trained in full.
        trials: How many are still to end.
        harvest: Who notes what happens, and knows whether to stop.
        phase: Names the folder of Ray's own files, under ``plan.run_dir / "ray"``.
    """
    slots = plan.max_concurrent_trials or slots_of(plan, ray.cluster_resources())
    # Ray starts one trial after the other unless told how many may wait for their process at a time
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    scheduler = FIFOScheduler()
    if isinstance(search, StudySearch):
        scheduler = make_scheduler(plan, harvest.record, _kept_steps(plan, harvest.record))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, plan.trial_resources),
        tune_config=ray_tune.TuneConfig(
            num_samples=trials,
            search_alg=search,
            scheduler=scheduler,
            reuse_actors=True,
            max_concurrent_trials=slots,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=ray_tune.RunConfig(
            name=_attempt(plan.run_dir / RAY, phase),
            storage_path=str(plan.run_dir / RAY),
            verbose=0,
            stop=harvest.stop,
            callbacks=[JsonLoggerCallback(), CSVLoggerCallback(), harvest],
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True, num_to_keep=2),
            failure_config=ray_tune.FailureConfig(max_failures=plan.max_failures),
        ),
    )
    try:
        tuner.fit()
    except (OSError, ray.exceptions.RayError) as error:
        harvest.stop.watch_disk()
        if harvest.stop.shortage is None:
            raise
        logging.getLogger(__name__).debug("Ray could not write: %s", error)


def _attempt(folder: Path, phase: str) -> str:
    """Return a name for Ray's files that no earlier run of the search has used."""
    return next(name for number in itertools.count(1) if not (folder / (name := f"{phase}-{number}")).exists())


def checkpoints(plan: SearchPlan, record: Record) -> dict[str, str]:
    """Return trial id -> its furthest whole checkpoint, of trials that an earlier run of the search left unfinished."""
    left = [record.configs[trial_id] for trial_id in record.configs if trial_id not in record.rows]
    found = {config["trial_id"]: newest_checkpoint(plan, experiment_name(config)) for config in left}
    return {trial_id: str(folder) for trial_id, folder in found.items() if folder is not None}


def _kept_steps(plan: SearchPlan, record: Record) -> dict[str, int]:
    found = {
        trial_id: checkpoint.progress_of(Path(path) / FOLDER) for trial_id, path in checkpoints(plan, record).items()
    }
    return {trial_id: progress.step for trial_id, progress in found.items() if progress is not None}


def newest_checkpoint(plan: SearchPlan, experiment: str) -> Path | None:
    """Return a trial's furthest whole checkpoint, over all runs of the search; None if there is none."""
    folders = (plan.run_dir / RAY).glob(f"*/{experiment}/checkpoint_*/{FOLDER}")
    session = checkpoint.newest(folders)
    return None if session is None else session.parent


def searcher(plan: SearchPlan, preflight: Preflight, record: Record) -> StudySearch | FixedSearch:
    """Return what suggests a plan's configurations."""
    if plan.official:
        return FixedSearch(official_configs(plan), record)
    return StudySearch(plan, functools.partial(_key, preflight.workload, preflight), record)


@contextmanager
def workers(plan: SearchPlan, workload: Workload, record: Record) -> Iterator[Any]:
    """Yield the class of the trials; the processes that train for them end with the block, not with a trial.

    ``run`` may be called any number of times within.
    """
    # a Ray of our own ends with this process, and hosts with it; elsewhere they must see that it is gone
    lease = ray.remote(Lease).options(name=_lease(plan), num_cpus=0).remote() if plan.ray_address else None
    try:
        yield _trainable(plan, workload, checkpoints(plan, record))
    finally:
        for name in ray.util.list_named_actors():
            if name.startswith(f"{plan.name}-"):
                ray.kill(ray.get_actor(name))
        del lease


def _trainable(plan: SearchPlan, workload: Workload, known: dict[str, str]) -> Any:
    """Return the class of the trials, with what they share put into Ray's object store once."""
    if plan.isolation == "process":
        return ray_tune.with_parameters(LoraTrainable, workload=workload, checkpoints=known)
    cpus = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    hosts = max(1, int(cpus // plan.cpus_per_trial))
    packing = Packing(str(plan.name), [ray.put(workload)], hosts, _lease(plan), known)
    if plan.ray_address is None:  # every device is ours: they can load the base while the trials' processes start
        node, kind = ray.nodes()[0]["NodeID"], "gpu" if plan.gpus_per_trial else "cpu"
        devices = int(ray.cluster_resources()["GPU"]) if plan.gpus_per_trial else hosts
        for number in range(min(devices, plan.max_concurrent_trials or devices)):
            packing.host(node, f"{kind}{number}")
    return ray_tune.with_parameters(PackedTrainable, packing=packing)


def _lease(plan: SearchPlan) -> str:
    return f"{plan.name}-lease" if plan.ray_address else ""


def _name(trial: Any) -> str:
    """Return the name that the Ray dashboard, folders, MLflow and the report share."""
    return experiment_name(trial.config)


def _key(workload: Workload, preflight: Preflight, config: dict[str, Any]) -> str:
    spec = TrialSpec.from_config(config)
    allocation = spec.allocation(preflight.shape.sites, workload.budget, workload.evidence)
    alphas = spec.alphas(allocation, preflight.shape.sites, workload.scale)
    return effective_key(dict(allocation.ranks), alphas, spec.learning_rate, spec.seed) + spec.training
