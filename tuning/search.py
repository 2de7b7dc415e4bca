"""Run a plan: the only file that names ``ray.tune.Tuner``."""

import functools
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler

from trainables import checkpoint, farewell
from trainables.host import FOLDER
from trainables.hosts import Hosts
from trainables.proxy import PackedTrainable
from trainables.spec import TrialSpec, Workload
from trainables.trainable import LoraTrainable
from tuning.fixed import FixedSearch
from tuning.harvest import Harvest, experiment_name
from tuning.hosting import save_all
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
        trainable: The class of its trials.
        search: What suggests configurations; those that are known beforehand are all trained in full.
        trials: How many are still to end.
        harvest: Who notes what happens, and knows whether to stop.
        phase: Names the folder of Ray's own files, under ``plan.run_dir / "ray"``.
    """
    slots = plan.max_concurrent_trials or slots_of(plan, ray.cluster_resources())
    # Ray starts one trial after the other unless told how many may wait for their process at a time
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    # Ray gives AWS's keys to every trial, which needs none, and so writes them into a log that others may read
    ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])
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
            callbacks=[harvest, JsonLoggerCallback(), CSVLoggerCallback()],  # ours first: Ray's may find the disk full
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True, num_to_keep=2),
            failure_config=ray_tune.FailureConfig(max_failures=plan.max_failures),
        ),
    )
    harvest.stop.farewell = functools.partial(_keep_all, plan, harvest)
    try:
        tuner.fit()
    finally:
        harvest.stop.farewell = None


def _keep_all(plan: SearchPlan, harvest: Harvest) -> None:
    """Have every trial that runs keep how it stands; one that takes long is not waited for."""
    folder = plan.run_dir / RAY / STOPPED
    if plan.isolation == "packed":
        save_all(plan, folder, FAREWELL_SECONDS)
    else:
        farewell.keep_all(folder, harvest.running, FAREWELL_SECONDS)


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
    session = checkpoint.newest(_sessions(plan, experiment))
    return None if session is None else session.parent


def drop_misfits(plan: SearchPlan, preflight: Preflight, record: Record) -> None:
    """Remove what unfinished trials have kept on another base or at other ranks than those that the plan has for them.

    So it is once a plan was changed. A trial that has nothing else begins anew.
    """
    workload = preflight.workload
    for trial_id, config in record.configs.items():
        if trial_id in record.rows or not (kept := [*_sessions(plan, experiment_name(config))]):
            continue
        digest = TrialSpec.from_config(config).digest(preflight.shape.sites, workload.budget, workload.evidence)
        stands = {folder: checkpoint.progress_of(folder) for folder in kept}
        fits = {
            folder: (progress.base, progress.allocation) == (workload.base, digest)
            for folder, progress in stands.items()
            if progress is not None
        }
        for folder in (folder for folder in fits if not fits[folder]):
            shutil.rmtree(folder.parent)
        if fits and not any(fits.values()):
            record.began_anew(trial_id)


def _sessions(plan: SearchPlan, experiment: str) -> Iterator[Path]:
    return (plan.run_dir / RAY).glob(f"*/{experiment}/checkpoint_*/{FOLDER}")


def searcher(plan: SearchPlan, preflight: Preflight, record: Record) -> StudySearch | FixedSearch:
    """Return what suggests a plan's configurations."""
    if plan.official:
        return FixedSearch(official_configs(plan), record)
    return StudySearch(plan, functools.partial(_key, preflight.workload, preflight), record)


def trainable(plan: SearchPlan, hosts: Hosts, workload: Workload, record: Record) -> Any:
    """Return the class of the trials, with what they share.

    Args:
        plan: The search.
        hosts: Where packed trials train.
        workload: What the others load themselves.
        record: Says where trials stand that an earlier run of the search left unfinished.
    """
    known = checkpoints(plan, record)
    if plan.isolation == "process":
        stopped = str(plan.run_dir / RAY / STOPPED)
        return ray_tune.with_parameters(LoraTrainable, workload=workload, checkpoints=known, stopped=stopped)
    return ray_tune.with_parameters(PackedTrainable, hosts=hosts, checkpoints=known)


def _name(trial: Any) -> str:
    """Return the name that the Ray dashboard, folders, MLflow and the report share."""
    return experiment_name(trial.config)


def _key(workload: Workload, preflight: Preflight, config: dict[str, Any]) -> str:
    spec = TrialSpec.from_config(config)
    allocation = spec.allocation(preflight.shape.sites, workload.budget, workload.evidence)
    alphas = spec.alphas(allocation, preflight.shape.sites, workload.scale)
    return effective_key(dict(allocation.ranks), alphas, spec.learning_rate, spec.seed) + spec.training
