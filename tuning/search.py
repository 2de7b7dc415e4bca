"""Run a plan: the only file that names ``ray.tune.Tuner``."""

import functools
import json
import logging
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune as ray_tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from analysis.rows import ResultRow
from strategies.base import Evidence
from trainables import eva, evidence, footprint
from trainables.proxy import PackedTrainable, Packing
from trainables.spec import TrialSpec, Workload
from trainables.trainable import LoraTrainable
from tuning.fixed import FixedSearch
from tuning.harvest import Harvest, Listener, adapters_of, experiment_name
from tuning.plan import SearchPlan
from tuning.preflight import Preflight
from tuning.scheduler import make_scheduler
from tuning.space import official_configs
from tuning.study import StudySearch, effective_key

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def ray_for(plan: SearchPlan) -> Iterator[str]:
    """Join the Ray that the plan names, or start one of our own and end it afterwards; yield its dashboard's address.

    Raises:
        ValueError: The Ray that is there lacks what one trial needs.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is one line of progress and a row
    ours = not ray.is_initialized()
    try:
        context = ray.init(
            address=plan.ray_address or "local",
            namespace=f"lora-rank-search-{uuid.uuid4().hex}",  # this search's hosts are found by nobody else
            log_to_driver=False,
            logging_level="ERROR",
            ignore_reinit_error=True,
        )
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"--ray-address {plan.ray_address}: no Ray answers there ({error})") from error
    try:
        _check_resources(plan, ray.cluster_resources())
        yield context.dashboard_url or ""
    finally:
        if ours:
            ray.shutdown()


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
    if not cached.is_file():
        found = on_device(plan, _measure, preflight.workload)
        cached.parent.mkdir(parents=True, exist_ok=True)
        aside = cached.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(found, indent=1))
        aside.replace(cached)
    result: Evidence = json.loads(cached.read_text())
    return result


def _components(plan: SearchPlan, workload: Workload, corpus_sha256: str) -> eva.Components:
    """Measure once per model, data and budget; afterwards read from the runs folder."""
    cached = Path(plan.runs_dir).resolve() / ".evidence" / f"{eva.cache_key(workload, corpus_sha256)}.safetensors"
    if not cached.is_file():
        on_device(plan, _measure_components, workload).save(cached)
    return eva.Components.read(cached)


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    Args:
        rows: One per trial, in the order in which they were made.
        adapters: Trial id -> folder of its last adapter.
        study: Optuna's study; None if nothing was searched.
        resource_events: What memory did not allow; no trial is the worse for it.
    """

    rows: list[ResultRow]
    adapters: dict[str, Path]
    study: optuna.Study | None
    resource_events: tuple[str, ...]

    def followed_by(self, other: "Outcome") -> "Outcome":
        """Return this with what another phase of the same search found after it."""
        return Outcome(
            rows=[*self.rows, *other.rows],
            adapters=self.adapters | other.adapters,
            study=self.study,
            resource_events=tuple(dict.fromkeys((*self.resource_events, *other.resource_events))),
        )


def run(
    plan: SearchPlan, trainable: Any, search: Searcher, trials: int, listeners: Sequence[Listener], folder: str = "ray"
) -> Outcome:
    """Train trials until there are as many as wanted, or no more configurations.

    ``plan.run_dir`` receives ``rows.jsonl``, a line as each trial ends, and Ray's own files.

    Args:
        plan: The search.
        trainable: As ``workers`` gives it.
        search: What suggests configurations; those that are known beforehand are all trained in full.
        trials: How many there will be.
        listeners: Hear what happens to trials.
        folder: Of Ray's files, within the run's.
    """
    slots = plan.max_concurrent_trials or slots_of(plan, ray.cluster_resources())
    # Ray starts one trial after the other unless told how many may wait for their process at a time
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    harvest = Harvest(plan.run_dir / "rows.jsonl", listeners)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, plan.trial_resources),
        tune_config=ray_tune.TuneConfig(
            num_samples=trials,
            search_alg=search,
            scheduler=make_scheduler(plan) if isinstance(search, StudySearch) else FIFOScheduler(),
            reuse_actors=True,
            max_concurrent_trials=slots,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=ray_tune.RunConfig(
            name=folder,
            storage_path=str(plan.run_dir),
            verbose=0,
            callbacks=[JsonLoggerCallback(), CSVLoggerCallback(), harvest],
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True, num_to_keep=2),
            failure_config=ray_tune.FailureConfig(max_failures=plan.max_failures),
        ),
    )
    adapters = adapters_of(tuner.fit())
    return Outcome(
        rows=list(harvest.rows.values()),
        adapters=adapters,
        study=search.study if isinstance(search, StudySearch) else None,
        resource_events=tuple(harvest.resource_events),
    )


def searcher(plan: SearchPlan, preflight: Preflight) -> Searcher:
    """Return what suggests a plan's configurations."""
    if plan.official:
        return FixedSearch(official_configs(plan))
    return StudySearch(plan, functools.partial(_key, preflight.workload, preflight))


@contextmanager
def workers(plan: SearchPlan, workload: Workload) -> Iterator[Any]:
    """Yield the class of the trials; the processes that train for them end with the block, not with a trial.

    ``run`` may be called any number of times within.
    """
    try:
        yield _trainable(plan, workload)
    finally:
        for name in ray.util.list_named_actors():
            if name.startswith(f"{plan.name}-"):
                ray.kill(ray.get_actor(name))


def _trainable(plan: SearchPlan, workload: Workload) -> Any:
    """Return the class of the trials, with what they share put into Ray's object store once."""
    if plan.isolation == "process":
        return ray_tune.with_parameters(LoraTrainable, workload=workload)
    cpus = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    hosts = max(1, int(cpus // plan.cpus_per_trial))
    packing = Packing(search=str(plan.name), workload=[ray.put(workload)], hosts_per_node=hosts)
    if plan.ray_address is None:  # every device is ours: they can load the base while the trials' processes start
        node, kind = ray.nodes()[0]["NodeID"], "gpu" if plan.gpus_per_trial else "cpu"
        for number in range(int(ray.cluster_resources()["GPU"]) if plan.gpus_per_trial else hosts):
            packing.host(node, f"{kind}{number}")
    return ray_tune.with_parameters(PackedTrainable, packing=packing)


def _name(trial: Any) -> str:
    """Return the name that the Ray dashboard, folders, MLflow and the report share."""
    return experiment_name(trial.config, trial.trial_id)


def _key(workload: Workload, preflight: Preflight, config: dict[str, Any]) -> str:
    spec = TrialSpec.from_config(config)
    allocation = spec.allocation(preflight.shape.sites, workload.budget, workload.evidence)
    alphas = spec.alphas(allocation, preflight.shape.sites, workload.scale)
    return effective_key(dict(allocation.ranks), alphas, spec.learning_rate, spec.seed) + spec.training
