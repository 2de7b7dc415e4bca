"""The phases of a search: search, confirmation, controls."""

import logging
from dataclasses import dataclass
from typing import Any

import optuna

from analysis.results.run_info import RunInfo
from analysis.results.trial_config import Phase
from trainables.actors.host_registry import Hosts
from tuning.callbacks.metrics import Metrics
from tuning.callbacks.trial_callback import Harvest
from tuning.callbacks.trial_log import TrialLog
from tuning.lifecycle.stop import Stop
from tuning.lifecycle.timeline import Stage, Timeline
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight
from tuning.state import checkpoints
from tuning.state.record import Record
from tuning.tracking import events
from tuning.trials import tuner
from tuning.trials.confirmation import ALL_CONTROLS, confirmations, controls, regrouped, sizes
from tuning.trials.fixed_search import FixedSearch
from tuning.trials.optuna_search import StudySearch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A search that runs: what every part of it needs."""

    plan: SearchPlan
    checked: Preflight
    record: Record
    stop: Stop
    facts: RunInfo
    sink: events.Sink
    hosts: Hosts
    timeline: Timeline
    observer: SearchObserver

    @property
    def data(self) -> tuple[str, str]:
        """Name and digest of the data set, as MLflow has them of each run."""
        return self.plan.dataset, self.checked.corpus_sha256


def train(run: Run) -> optuna.Study | None:
    """Search, and confirm what was found; what the record has already is not done again."""
    plan, record = run.plan, run.record
    checkpoints.discard_incompatible(plan, run.checked, record, run.observer)
    to_mlflow, gauges = events.Tracking(run.sink, run.data), Metrics(plan.run_dir.name)
    for row in record.rows.values():
        gauges.ended(row)
        to_mlflow.ended(row)  # a kill may have come between the record and those who are told
    ended_trials = checkpoints.EndedTrials(plan, record.rows.values())
    listeners = (to_mlflow, gauges, TrialLog(run.timeline), ended_trials)
    trainable = tuner.trainable(plan, run.hosts, record)
    search = tuner.searcher(plan, run.checked, record)
    left = plan.trials - len(record.of_phase(Phase.SEARCH))
    if left > 0:
        run.timeline.enter(Stage.FIRST_STEP)
        _phase(run, trainable, search, left, listeners, Phase.SEARCH)
    ended_trials.make_room()
    for what, make, kind in ((Stage.CONFIRMATION, confirmations, False), (Stage.CONTROLS, controls, True)):
        if run.stop.stop_all():
            break
        rows = list(record.rows.values())
        wanted = make(plan, rows) + ([] if kind else sizes(plan, rows))
        for row in regrouped([row for row in rows if (row.strategy in ALL_CONTROLS) is kind], wanted):
            record.ended(row)
        again = FixedSearch(wanted, record)
        if len(again):
            run.timeline.enter(what)
            run.observer.noted(f"\n{what.capitalize()}: {len(again)} runs from {plan.confirm_seeds} fresh seeds")
            log.info("%s: %s", what, ", ".join(config.trial_id for config in wanted))
            to_mlflow.open_group(Phase.CONFIRM)
            _phase(run, trainable, again, len(again), listeners, what)
            ended_trials.make_room()
    if not run.stop.stop_all() and record.of_phase(Phase.CONFIRM):
        to_mlflow.close_group(Phase.CONFIRM)
    return search.study if isinstance(search, StudySearch) else None


def _phase(
    run: Run, trainable: Any, search: StudySearch | FixedSearch, left: int, listeners: tuple[Any, ...], phase: str
) -> None:
    """Train what is left of a phase."""
    ended = run.record.of_phase(Phase.SEARCH) if phase == Phase.SEARCH else []
    run.observer.phase_began(phase, left + len(ended), ended)
    try:
        harvest = Harvest(run.record, run.stop, (run.observer, *listeners), run.observer.warned)
        tuner.run(run.plan, trainable, search, left, harvest, phase)
    finally:
        run.observer.phase_ended()
