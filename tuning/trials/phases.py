"""The phases of a search: search, confirmation, controls."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna

from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.results.trial_config import Phase, TrialConfig
from trainables.actors.host_registry import Hosts
from tuning.callbacks.metrics import Metrics
from tuning.callbacks.trial_callback import Harvest
from tuning.callbacks.trial_log import TrialLog
from tuning.cluster.hosting import save_all
from tuning.lifecycle.stop import Stop
from tuning.lifecycle.timeline import Stage, Timeline
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight
from tuning.state import checkpoints
from tuning.state.facts import save_facts
from tuning.state.record import Record
from tuning.tracking import events
from tuning.trials import tuner
from tuning.trials.confirmation import ALL_CONTROLS, confirmations, controls, looks, regrouped, sizes
from tuning.trials.deadline import Deadline
from tuning.trials.fixed_search import FixedSearch
from tuning.trials.optuna_search import StudySearch

log = logging.getLogger(__name__)
LAST_SECONDS = 10.0


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
    deadline: Deadline | None = None

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
    listeners = (to_mlflow, gauges, TrialLog(run.timeline), *([Spent(run)] if run.deadline else []), ended_trials)
    trainable = tuner.trainable(plan, run.hosts, record)
    search = tuner.searcher(plan, run.checked, record)
    if run.deadline and isinstance(search, StudySearch):
        search.may_begin = run.deadline.may_search
    left = plan.trials - len(record.of_phase(Phase.SEARCH))
    if left > 0:
        run.timeline.enter(Stage.FIRST_STEP)
        _phase(run, trainable, search, left, listeners, Phase.SEARCH)
    ended_trials.make_room()
    for what in (Stage.CONFIRMATION, Stage.CONTROLS):
        _confirm(run, trainable, listeners, ended_trials, what)
    _tell_shortened(run)
    if not run.stop.stop_all() and record.of_phase(Phase.CONFIRM):
        to_mlflow.close_group(Phase.CONFIRM)
    return search.study if isinstance(search, StudySearch) else None


def _confirm(
    run: Run, trainable: Any, listeners: tuple[Any, ...], ended_trials: checkpoints.EndedTrials, what: Stage
) -> None:
    """Train what confirms a search, or its controls, that is not there yet; look by look where a search looks."""
    of_controls, told, before = what == Stage.CONTROLS, 0, None
    while not run.stop.stop_all():
        wanted = _wanted(run, of_controls)
        if not of_controls and run.plan.looks:
            told = _tell_looks(run, told)
        if wanted == before or all(config.trial_id in run.record.rows for config in wanted):
            break
        before = wanted
        _train_again(run, trainable, listeners, what, wanted)
        ended_trials.make_room()
        if of_controls or not run.plan.looks:
            break


def _wanted(run: Run, of_controls: bool) -> list[TrialConfig]:
    """Return what confirms a search so far, or its controls; what confirms it no longer is put aside."""
    plan, rows = run.plan, list(run.record.rows.values())
    wanted = controls(plan, rows) if of_controls else [*confirmations(plan, rows), *sizes(plan, rows)]
    for row in regrouped([row for row in rows if (row.strategy in ALL_CONTROLS) is of_controls], wanted):
        run.record.ended(row)
    return wanted


def _train_again(run: Run, trainable: Any, listeners: tuple[Any, ...], what: Stage, wanted: list[TrialConfig]) -> None:
    again = FixedSearch(wanted, run.record)
    if (deadline := run.deadline) is not None:
        in_turn = sorted(wanted, key=lambda config: config.seed or 0)  # other sizes beside what they are compared with
        at_once = [config for config in wanted if not run.plan.looks or config.trial_id not in run.record.rows]
        again = FixedSearch(in_turn, run.record, lambda config: deadline.may_confirm(config, at_once))
    left = {config.seed for config in wanted if config.trial_id not in run.record.rows}
    seeds = len(left) if run.plan.looks else run.plan.confirm_seeds
    run.timeline.enter(what)
    run.observer.noted(f"\n{what.capitalize()}: {len(again)} runs from {seeds} fresh seeds")
    log.info("%s: %s", what, ", ".join(config.trial_id for config in wanted))
    listeners[0].open_group(Phase.CONFIRM)
    _phase(run, trainable, again, len(again), listeners, what)


def _tell_shortened(run: Run) -> None:
    """Say, and note, what there was no time for."""
    if run.deadline is None or not run.deadline.kept_out or run.stop.stop_all():
        return
    confirmed = {row.seed for row in run.record.of_phase(Phase.CONFIRM)}
    searched = len(run.record.of_phase(Phase.SEARCH))
    seeds = f"{len(confirmed)} of {'at most ' if run.plan.looks else ''}{run.plan.most_seeds} seeds"
    what = f"time limit {run.plan.time_limit}: {searched} of {run.plan.trials} trials and {seeds} were in time"
    run.record.short_of(what)
    run.observer.noted(f"\n{what[0].upper()}{what[1:]}")


class Spent:
    """Notes as each trial ends what a search has taken so far, so that a kill takes nothing of it back."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def started(self, config: TrialConfig) -> None:
        """Note nothing."""

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Note nothing."""

    def ended(self, row: ResultRow) -> None:
        """Note the time in ``facts.json``."""
        save_facts(replace(self._run.facts, seconds=self._run.timeline.seconds), self._run.plan.run_dir)


def _tell_looks(run: Run, told: int) -> int:
    """Say what looks have told of strategies since as many were told of, and return of how many they have now."""
    sentences = looks(run.plan, list(run.record.rows.values())).told
    for sentence in sentences[told:]:
        run.observer.noted(f"Look: {sentence}")
        log.info("look: %s", sentence)
    return len(sentences)


def _phase(
    run: Run, trainable: Any, search: StudySearch | FixedSearch, left: int, listeners: tuple[Any, ...], phase: str
) -> None:
    """Train what is left of a phase."""
    ended = run.record.of_phase(Phase.SEARCH) if phase == Phase.SEARCH else []
    run.observer.phase_began(phase, left + len(ended), ended)
    try:
        harvest = Harvest(run.record, run.stop, (run.observer, *listeners), run.observer.warned)
        folder = run.plan.run_dir / checkpoints.RAY / checkpoints.STOPPED
        run.stop.before_it = partial(save_all, run.hosts, folder, LAST_SECONDS)
        tuner.run(run.plan, trainable, search, left, harvest, phase)
    finally:
        run.stop.before_it = None
        run.observer.phase_ended()
