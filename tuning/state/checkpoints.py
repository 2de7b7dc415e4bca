"""What a search's trials have kept on disk, in this run of it and in earlier ones."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status, TrialConfig
from trainables.spec import TrialSpec
from trainables.training import checkpoint
from trainables.training.checkpoint import SESSION
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight
from tuning.state.record import Record

RAY, STOPPED = "ray", "stopped"
log = logging.getLogger(__name__)


def newest_checkpoint(plan: SearchPlan, experiment: str, to_continue: bool = False) -> Path | None:
    """Return a trial's furthest whole checkpoint, over all runs of the search; None if there is none.

    Args:
        plan: The search.
        experiment: The trial's name.
        to_continue: Whether it must have more than the adapter.
    """
    session = checkpoint.newest(_sessions(plan, experiment), to_continue)
    return None if session is None else session.parent


def checkpoints(plan: SearchPlan, record: Record) -> dict[str, str]:
    """Return trial id -> its furthest whole checkpoint, of trials that an earlier run of the search left unfinished."""
    left = [record.configs[trial_id] for trial_id in record.configs if trial_id not in record.rows]
    newest = {config.trial_id: newest_checkpoint(plan, config.name, to_continue=True) for config in left}
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


class EndedTrials:
    """Hears of trials that end, and keeps of each what may still be handed out: the adapter of its last report.

    Nothing goes on from such a trial any more, so that an optimizer's state and earlier checkpoints are of no use. The
    adapters of controls, of other sizes of plain LoRA and of trials that went wrong are handed out by nobody.

    Args:
        plan: The search.
        rows: Of the trials that have ended already.
    """

    def __init__(self, plan: SearchPlan, rows: Iterable[ResultRow]) -> None:
        self.plan, self.left, self.seen = plan, [*rows], list[ResultRow]()

    def started(self, config: TrialConfig) -> None:
        """Do nothing."""

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Do nothing."""

    def ended(self, row: ResultRow) -> None:
        """Make room after those that have ended before: Ray may still be writing the last checkpoint of this one."""
        looked_at = [row for row in self.left if self._made_room(row, settled=False)]
        self.seen += looked_at
        self.left = [each for each in self.left if each not in looked_at] + [row]

    def make_room(self) -> None:
        """Look at all again, once Ray writes no more."""
        for row in (*self.seen, *self.left):
            self._made_room(row, settled=True)
        self.left, self.seen = [], []

    def _made_room(self, row: ResultRow, settled: bool) -> bool:
        try:
            return _keep_adapter(self.plan, row, settled)
        except OSError:
            log.warning("no room could be made after %s", row.experiment_name, exc_info=True)
            return True


def can_be_handed_out(row: ResultRow) -> bool:
    """Return True if a trial is one whose adapter a search could recommend."""
    return row.control_of is None and row.phase != Phase.SIZES and row.status in {Status.FINISHED, Status.STOPPED}


def _keep_adapter(plan: SearchPlan, row: ResultRow, settled: bool) -> bool:
    """Remove all but the adapter of a trial's last report; return False if that is not there, and all was left.

    Args:
        plan: The search.
        row: The trial's.
        settled: Whether nobody writes any more; otherwise what is not whole is left.
    """
    whole = {folder: checkpoint.progress_of(folder) for folder in _sessions(plan, row.experiment_name)}
    kept = None
    if can_be_handed_out(row):
        last = row.history[-1]["step"] if row.history else None
        kept = max((f for f, progress in whole.items() if progress and progress.step == last), default=None)
        if kept is None:
            return False
        checkpoint.drop_state(kept)
    for folder, progress in whole.items():
        if folder != kept and (settled or progress is not None):
            shutil.rmtree(folder)  # not the folder of Ray's around it, which Ray removes in its own time
    return True


def _sessions(plan: SearchPlan, experiment: str) -> Iterator[Path]:
    return (plan.run_dir / RAY).glob(f"*/{experiment}/checkpoint_*/{SESSION}")
