"""Run a plan: the only file that names ``ray.tune.Tuner``."""

import functools
import itertools
import logging
import os
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler

from analysis.results.trial_config import TrialConfig
from trainables.actors.host_registry import Hosts
from trainables.actors.packed_trainable import PackedTrainable
from trainables.spec import TrialSpec, Workload
from tuning.callbacks.trial_callback import Harvest
from tuning.cluster.connection import slots_of
from tuning.cluster.ray_compat import send_no_cloud_keys
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import official_configs
from tuning.preflight.preflight import Preflight
from tuning.state.checkpoints import RAY, checkpoints, steps
from tuning.state.record import Record
from tuning.trials.asha import make_scheduler
from tuning.trials.fixed_search import FixedSearch
from tuning.trials.optuna_search import StudySearch
from tuning.trials.sampling import effective_key

log = logging.getLogger(__name__)


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
    log.info("%s: %d trials, %d at once", phase, trials, slots)
    # Ray starts one trial after the other unless told how many may wait for their process at a time
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    send_no_cloud_keys()
    scheduler = FIFOScheduler()
    if isinstance(search, StudySearch):
        scheduler = make_scheduler(plan, harvest.record, steps(plan, harvest.record))
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
    tuner.fit()


def _attempt(folder: Path, phase: str) -> str:
    """Return a name for Ray's files that no earlier run of the search has used."""
    return next(name for number in itertools.count(1) if not (folder / (name := f"{phase}-{number}")).exists())


def searcher(plan: SearchPlan, preflight: Preflight, record: Record) -> StudySearch | FixedSearch:
    """Return what suggests a plan's configurations."""
    if plan.official:
        return FixedSearch(official_configs(plan), record)
    return StudySearch(plan, functools.partial(_key, preflight.workload, preflight), record)


def trainable(plan: SearchPlan, hosts: Hosts, record: Record) -> Any:
    """Return the class of the trials, with what they share.

    Args:
        plan: The search.
        hosts: Where they train.
        record: Says where trials stand that an earlier run of the search left unfinished.
    """
    return ray_tune.with_parameters(PackedTrainable, hosts=hosts, checkpoints=checkpoints(plan, record))


def _name(trial: Any) -> str:
    """Return the name that the Ray dashboard, folders, MLflow and the report share."""
    return TrialConfig.from_ray(trial.config).name


def _key(workload: Workload, preflight: Preflight, config: TrialConfig) -> str:
    spec = TrialSpec.from_config(config)
    allocation = spec.allocation(preflight.shape.sites, workload.budget, workload.evidence)
    alphas = spec.alphas(allocation, preflight.shape.sites, workload.scale)
    return effective_key(dict(allocation.ranks), alphas, spec.learning_rate, spec.seed) + spec.training
