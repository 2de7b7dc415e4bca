"""What a search's trials have kept on disk, in this run of it and in earlier ones."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from trainables.spec import TrialSpec
from trainables.training import checkpoint
from trainables.training.checkpoint import SESSION
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight
from tuning.state.record import Record

RAY, STOPPED = "ray", "stopped"


def newest_checkpoint(plan: SearchPlan, experiment: str) -> Path | None:
    """Return a trial's furthest whole checkpoint, over all runs of the search; None if there is none."""
    session = checkpoint.newest(_sessions(plan, experiment))
    return None if session is None else session.parent


def checkpoints(plan: SearchPlan, record: Record) -> dict[str, str]:
    """Return trial id -> its furthest whole checkpoint, of trials that an earlier run of the search left unfinished."""
    left = [record.configs[trial_id] for trial_id in record.configs if trial_id not in record.rows]
    newest = {config.trial_id: newest_checkpoint(plan, config.name) for config in left}
    return {trial_id: str(folder) for trial_id, folder in newest.items() if folder is not None}


def steps(plan: SearchPlan, record: Record) -> dict[str, int]:
    """Return trial id -> the optimizer steps that its furthest whole checkpoint has, of the same trials."""
    furthest = {
        trial_id: checkpoint.progress_of(Path(path) / SESSION) for trial_id, path in checkpoints(plan, record).items()
    }
    return {trial_id: progress.step for trial_id, progress in furthest.items() if progress is not None}


def discard_incompatible(
    plan: SearchPlan, preflight: Preflight, record: Record, observer: SearchObserver | None = None
) -> None:
    """Remove what unfinished trials have kept on another base or at other ranks than those that they get now.

    So it is once a plan was changed, or what strategies score from was lost and has been measured anew. A trial that
    has kept nothing else begins anew.
    """
    workload, tell = preflight.workload, (observer or SearchObserver()).noted
    for trial_id, config in record.configs.items():
        if trial_id in record.rows or not (sessions := [*_sessions(plan, config.name)]):
            continue
        digest = TrialSpec.from_config(config).digest(preflight.shape.sites, workload.budget, workload.evidence)
        whole = {folder: progress for folder in sessions if (progress := checkpoint.progress_of(folder)) is not None}
        now = (workload.base, digest)
        incompatible = [folder for folder, progress in whole.items() if (progress.base, progress.allocation) != now]
        if incompatible and len(incompatible) == len(whole):  # first: were it cut off after the last, nobody would know
            tell(f"{config.name} begins anew: what it has kept is of another base or other ranks")
            record.began_anew(trial_id)
        for folder in incompatible:
            shutil.rmtree(folder.parent)


def _sessions(plan: SearchPlan, experiment: str) -> Iterator[Path]:
    return (plan.run_dir / RAY).glob(f"*/{experiment}/checkpoint_*/{SESSION}")
