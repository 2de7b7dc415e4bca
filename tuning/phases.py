"""The phases of a search: search, confirmation, controls."""

from dataclasses import dataclass
from typing import Any

import click
import optuna

from trainables.hosts import Hosts
from tuning import kept, tracking
from tuning import search as tuner
from tuning.confirm import ALL_CONTROLS, PHASE, confirmations, controls, regrouped
from tuning.facts import Facts
from tuning.fixed import FixedSearch
from tuning.harvest import Harvest
from tuning.metrics import Metrics
from tuning.plan import SearchPlan
from tuning.preflight import Preflight
from tuning.progress import Progress
from tuning.record import Record
from tuning.stop import Stop
from tuning.study import StudySearch


@dataclass(frozen=True, slots=True)
class Run:
    """A search that runs: what every part of it needs."""

    plan: SearchPlan
    known: Preflight
    record: Record
    stop: Stop
    facts: Facts
    sink: tracking.Sink
    hosts: Hosts


def train(run: Run) -> optuna.Study | None:
    """Search, and confirm what was found; what the record has already is not done again."""
    plan, record = run.plan, run.record
    kept.drop_misfits(plan, run.known, record)
    events, gauges = tracking.Tracking(run.sink), Metrics(plan.run_dir.name)
    for row in record.rows.values():
        gauges.ended(row)
    listeners = (events, gauges)
    trainable = tuner.trainable(plan, run.hosts, run.known.workload, record)
    search = tuner.searcher(plan, run.known, record)
    left = plan.trials - len(record.of_phase("search"))
    _phase(run, trainable, search, left, listeners, "search")
    for what, make, kind in (("confirmation", confirmations, False), ("controls", controls, True)):
        if run.stop.stop_all():
            break
        rows = list(record.rows.values())
        wanted = make(plan, rows)
        for row in regrouped([row for row in rows if (row.strategy in ALL_CONTROLS) is kind], wanted):
            record.ended(row)
        again = FixedSearch(wanted, record)
        if len(again):
            click.echo(f"\n{what.capitalize()}: {len(again)} runs from {plan.confirm_seeds} fresh seeds")
            events.open_group(PHASE)
            _phase(run, trainable, again, len(again), listeners, what)
    if not run.stop.stop_all() and record.of_phase(PHASE):
        events.close_group(PHASE)
    return search.study if isinstance(search, StudySearch) else None


def _phase(
    run: Run, trainable: Any, search: StudySearch | FixedSearch, left: int, listeners: tuple[Any, ...], phase: str
) -> None:
    """Train what is left of a phase."""
    if left < 1:
        return
    known = run.record.of_phase("search") if phase == "search" else []
    with Progress(left + len(known), known) as progress:
        harvest = Harvest(run.record, run.stop, (progress, *listeners))
        tuner.run(run.plan, trainable, search, left, harvest, phase)
