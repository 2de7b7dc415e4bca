"""Run a plan: the only file that names ``ray.tune.Tuner``."""

import functools
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler

from trainables import checkpoint
from trainables.host import FOLDER, Lease
from trainables.proxy import PackedTrainable, Packing
from trainables.spec import TrialSpec, Workload
from trainables.trainable import LoraTrainable
from tuning.confirm import most_confirmations
from tuning.fixed import FixedSearch
from tuning.harvest import Harvest, experiment_name
from tuning.plan import SearchPlan
from tuning.preflight import Preflight
from tuning.ray_connection import slots_of
from tuning.record import Record
from tuning.scheduler import make_scheduler
from tuning.space import official_configs
from tuning.study import StudySearch, effective_key

RAY, STOPPED = "ray", "stopped"
FAREWELL_SECONDS = 10.0


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
    harvest.stop.farewell = functools.partial(_save_all, plan)
    try:
        tuner.fit()
    except (OSError, ray.exceptions.RayError):
        harvest.stop.watch_disk()
        if harvest.stop.shortage is None:
            raise
    finally:
        harvest.stop.farewell = None


def _save_all(plan: SearchPlan) -> None:
    """Have every host write where its trials stand; one that takes long is not waited for."""
    hosts = [ray.get_actor(name) for name in ray.util.list_named_actors() if name != _lease(plan)]
    saved = [host.save_all.remote(str(plan.run_dir / RAY / STOPPED)) for host in hosts]
    if saved:
        ray.wait(saved, num_returns=len(saved), timeout=FAREWELL_SECONDS)


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
        for name in ray.util.list_named_actors():  # of this search's namespace: its hosts, and the lease
            ray.kill(ray.get_actor(name))
        del lease


def _trainable(plan: SearchPlan, workload: Workload, known: dict[str, str]) -> Any:
    """Return the class of the trials, with what they share put into Ray's object store once."""
    if plan.isolation == "process":
        return ray_tune.with_parameters(LoraTrainable, workload=workload, checkpoints=known)
    cpus = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    most = math.ceil(max(plan.trials, most_confirmations(plan)) / plan.trials_per_pack)
    hosts = max(1, min(most, int(cpus // plan.cpus_per_trial)))
    packing = Packing(str(plan.name), [ray.put(workload)], hosts, _lease(plan), known)
    if plan.ray_address is None:  # every device is ours: they can load the base while the trials' processes start
        devices = _gpus() if plan.gpus_per_trial else [f"cpu{number}" for number in range(hosts)]
        for device in devices[: plan.max_concurrent_trials]:
            packing.host(ray.nodes()[0]["NodeID"], device)
    return ray_tune.with_parameters(PackedTrainable, packing=packing)


def _gpus() -> list[str]:
    """Return the GPUs of this machine as Ray names them to trials."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else range(int(ray.cluster_resources()["GPU"]))
    return [f"gpu{name}" for name in names]


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
