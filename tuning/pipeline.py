"""From a plan to a finished run folder: check, train, confirm, report, and say where everything is."""

import datetime
import errno
import itertools
import logging
import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import optuna

from analysis.results.messages import masked
from analysis.results.run_info import RunInfo, planned
from analysis.results.trial_config import Phase, Status
from analysis.stats import ranking
from analysis.stats.assessment import assess
from trainables.actors.host_registry import Hosts
from tuning.cluster import connection, devices, hosting, node_check
from tuning.lifecycle import process, search_log
from tuning.lifecycle.process import CUT_OFF, NO_ROOM, NO_USABLE_TRIAL, NOT_VERIFIED, OK, SOME_FAILED
from tuning.lifecycle.search_log import FileLog
from tuning.lifecycle.stop import OUTSIDE, Stop, Stopped
from tuning.lifecycle.timeline import Stage, Timeline
from tuning.plan.places import absolute
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import base_dtype, disk_space, measuring, memory, preflight, preview
from tuning.preflight.always_plain import always_plain, in_words
from tuning.preflight.preflight import Preflight
from tuning.results import finalize, handout, summary
from tuning.state import continuation
from tuning.state.facts import revision, save_facts, versions
from tuning.state.record import Record
from tuning.tracking import events
from tuning.tracking.mlflow_client import PARENT, now_ms
from tuning.trials.phases import Run, train

log = logging.getLogger(__name__)
RUNS_DIR = SearchPlan.model_fields["runs_dir"].default


class Unusable(ValueError):
    """The plan cannot be carried out, for a reason that its author can mend. Nothing has been written."""


def dry_run(plan: SearchPlan, as_json: bool = False) -> int:
    """Show what a plan would do, and train nothing.

    Raises:
        Unusable: Something about the plan is wrong.
    """
    with _refusing():
        checked = measuring.looked_at_here(plan, preflight.check(plan, needs_weights=False))
    preview.show(plan, checked, as_json)
    return OK


def search(plan: SearchPlan) -> int:
    """Carry out a plan and return the exit code.

    Raises:
        Unusable: Something about the plan is wrong; nothing has been written.
    """
    is_named = plan.name is not None
    plan = plan.model_copy(update={"name": plan.name or f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"})
    with ExitStack() as stack:
        timeline, log_file = stack.enter_context(_watched())
        with _refusing():
            if is_named and os.path.lexists(plan.run_dir):
                continued = f"--resume {plan.name} takes it up"
                raise ValueError(f"--name {plan.name}: {plan.run_dir} exists; choose another name, or {continued}")
            checked = preflight.check(plan)
            disk_space.check(plan, checked)
            search_id = uuid.uuid4().hex
            plan, checked, hosts, dashboard = _measured(stack, plan, checked, search_id, timeline)
            facts = replace(_facts(plan, checked, search_id), seconds=timeline.seconds)
            plan, record = _created(plan, facts, is_named)
            process.leave_with(f"Stopped. To go on: {_again(plan)}")
            stack.enter_context(continuation.locked(plan.run_dir))
            log_file.write_to(plan.run_dir)
        return _run(_prepared(plan, checked, record, facts, hosts, timeline), dashboard)


def resume(name: str, given: Mapping[str, Any], extend: int = 0, allow_changes: bool = False) -> int:
    """Take a search up again and return the exit code; one that is complete is left as it is.

    Args:
        name: Of the search.
        given: Choices of this command line; ``runs_dir`` says where the search is.
        extend: Trials to add to it.
        allow_changes: Whether choices, libraries, texts and base may differ from what it began with.

    Raises:
        Unusable: There is no such search, another process runs it, or something about it is different.
    """
    with ExitStack() as stack:
        timeline, log_file = stack.enter_context(_watched())
        with _refusing():
            run_dir = continuation.folder_of(name, given.get("runs_dir", RUNS_DIR))
            stack.enter_context(continuation.locked(run_dir))
            record = Record(run_dir)
            before = continuation.saved_plan(record)
            continuation.check_trials(record)
            for line in record.damage:
                click.echo(f"{line}; going on with what is whole", err=True)
            if extend and record.exit_status is None:
                ahead = f"end it first with {_again(before)}"
                raise ValueError(f"--extend {extend}: only a finished search is extended, and {name} is not; {ahead}")
            plan, changes = continuation.changed_plan(before, given, extend)
            _refuse(name, changes, allow_changes)
            if record.exit_status is not None and not extend and not changes:
                click.echo(f"{name} is complete; --extend N would add trials")
                summary.show(plan, assess(list(record.rows.values()), plan.margin), "", "")
                return record.exit_status
            process.leave_with(f"Stopped. To go on: {_again(plan)}")
            checked = preflight.check(plan.model_copy(update={"corpus_sha256": None}))
            origin = continuation.origin(record, before)
            others = continuation.other_circumstances(origin, str(checked.workload.base), checked.corpus_sha256)
            _refuse(name, others, allow_changes)
            disk_space.check(plan, checked, len(record.rows))
            search_id = origin["search_id"] or uuid.uuid4().hex
            plan, checked, hosts, dashboard = _measured(stack, plan, checked, search_id, timeline)
            timeline.add(continuation.seconds_so_far(run_dir))
            facts = _facts(plan, checked, search_id, record)
            curve = finalize.known_curve(assess(list(record.rows.values()), plan.margin), record)
            changed = (*facts.changes, *changes, *others)
            facts = replace(facts, changes=changed, shrink=curve, seconds=timeline.seconds)
            log_file.write_to(run_dir)
            _note_plan(record, plan, facts, [*changes, *others])
        return _run(_prepared(plan, checked, record, facts, hosts, timeline), dashboard)


@contextmanager
def _watched() -> Iterator[tuple[Timeline, FileLog]]:
    """Measure and log a search from here on."""
    with search_log.heard_by(FileLog()) as log_file:
        log.info("%s, process %d", shlex.join(sys.argv), os.getpid())
        timeline = Timeline(Stage.IMPORTS, process.seconds_before_search())
        timeline.enter(Stage.CHECKS)
        try:
            yield timeline, log_file
        except Unusable:
            raise  # one line, which its author gets
        except Exception:
            log.exception("the search ends by an error")
            raise


@contextmanager
def _refusing() -> Iterator[None]:
    """Say that a ValueError within is about what was asked for."""
    try:
        yield
    except ValueError as error:
        raise Unusable(str(error)) from error


def _refuse(name: str, changes: list[str], allowed: bool) -> None:
    if changes and not allowed:
        raise ValueError(
            f"--resume {name}: {'; '.join(changes)}; go on as it began, or give --allow-changes to have that recorded"
        )


def _measured(
    stack: ExitStack, plan: SearchPlan, checked: Preflight, search_id: str, timeline: Timeline
) -> tuple[SearchPlan, Preflight, Hosts, str]:
    """Begin Ray and hosts, which end with ``stack``, and return what is known once they have measured.

    Returns:
        Plan, preflight and hosts, and the address of Ray's dashboard.
    """
    timeline.enter(Stage.RAY)
    dashboard = stack.enter_context(_ray(plan, checked, search_id))
    plan = devices.decided(plan)
    checked = replace(checked, workload=plan.trained_with(checked.workload))
    plan = base_dtype.decided(plan, checked)
    checked = replace(checked, workload=plan.trained_with(checked.workload))
    checked = memory.planned(plan, checked, devices.memory_there(plan) or memory.bytes_here(plan))
    preview.say_data(plan, checked)
    timeline.enter(Stage.LOADING)
    hosts = stack.enter_context(hosting.hosts_for(plan, checked.workload))
    timeline.enter(Stage.MEASURING)
    plan, checked = measuring.measured(plan, checked, hosts)
    if not plan.official and (plain := always_plain(plan.strategies, checked.workload)):
        click.echo(in_words(plain))
    timeline.enter(Stage.CHECKS)
    return absolute(plan.model_copy(update=checked.pinned)), checked, hosts.sharing(checked.workload), dashboard


@contextmanager
def _ray(plan: SearchPlan, checked: Preflight, search_id: str) -> Iterator[str]:
    with connection.ray_for(plan, search_id) as dashboard:
        if plan.ray_address is not None:
            node_check.check(plan, checked.workload)
        click.echo(f"Ray dashboard, while this search runs: http://{dashboard} (its token: ray get-auth-token)")
        if gpus := connection.unused_gpus(plan):
            click.echo(f"Ray has {gpus} GPU(s) and --gpus-per-trial is 0: training on CPU")
        yield dashboard


def _facts(plan: SearchPlan, checked: Preflight, search_id: str, record: Record | None = None) -> RunInfo:
    """Return what is known of a search that begins or, with a record, goes on."""
    plans = record.plans if record else []
    commands = [earlier["command"] for earlier in plans] + [shlex.join(sys.argv)]
    return RunInfo(
        **planned(plan.model_dump()),
        search_id=search_id,
        base_params=checked.shape.params,
        base_sha256=str(checked.workload.base),
        budget_params=checked.workload.budget.params,
        coverage=str(checked.shape.coverage),
        always_plain=always_plain(() if plan.official else plan.strategies, checked.workload),
        data=checked.data,
        command=commands[0],
        versions=versions(),
        revision=revision(),
        engine=plan.engine if plan.precision.exact else f"{plan.engine}; the base in {plan.precision}",
        continued=tuple(commands[1:]),
        changes=tuple(change for earlier in plans for change in earlier["changes"]),
        resource_events=tuple(record.resource_events) if record else (),
        looks=len(record.looks) if record else 0,
        evidence=checked.workload.evidence,
    )


def _created(plan: SearchPlan, facts: RunInfo, is_named: bool = True) -> tuple[SearchPlan, Record]:
    """Make the run folder, whole or not at all, and return the plan and its record.

    Where nobody has named it, a number follows its name if there is one of that name: of a search that began in the
    same second.

    Raises:
        ValueError: It is named, and somebody else has just made it, or it cannot be made.
    """
    for name in (f"{plan.name}-{number}" if number > 1 else plan.name for number in itertools.count(1)):
        its_plan = plan.model_copy(update={"name": name})
        if is_named or not os.path.lexists(its_plan.run_dir):
            try:
                return its_plan, _made(its_plan, facts)
            except FileExistsError as error:
                if is_named:
                    why = error.strerror
                    raise ValueError(f"--name {name}: {its_plan.run_dir} cannot be made ({why})") from error
    raise AssertionError("there are as many names as numbers")


def _made(plan: SearchPlan, facts: RunInfo) -> Record:
    """Make the run folder, whole or not at all, and return its record.

    Raises:
        FileExistsError: Somebody else has just made it.
        ValueError: It cannot be made.
    """
    aside = plan.run_dir.with_name(f".{plan.name}.{facts.search_id}")
    aside.mkdir(parents=True)
    try:
        _note_plan(Record(aside), plan, facts, [])
        aside.rename(plan.run_dir)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(error.errno, error.strerror, str(plan.run_dir)) from error
        raise ValueError(f"--name {plan.name}: {plan.run_dir} cannot be made ({error.strerror})") from error
    return Record(plan.run_dir)


def _note_plan(record: Record, plan: SearchPlan, facts: RunInfo, changes: list[str]) -> None:
    continuation.save_plan(plan, record.run_dir)
    save_facts(facts, record.run_dir)
    log.info("search %s, plan: %s", facts.search_id, plan.model_dump_json())
    log.info("versions: %s; code: %s", dict(facts.versions), facts.revision)
    for change in changes:
        log.info("changed, as allowed: %s", change)
    record.planned(
        plan=plan.model_dump(mode="json"),
        search_id=facts.search_id,
        base_sha256=facts.base_sha256,
        command=shlex.join(sys.argv),
        versions=dict(facts.versions),
        changes=changes,
    )


def _prepared(
    plan: SearchPlan, checked: Preflight, record: Record, facts: RunInfo, hosts: Hosts, timeline: Timeline
) -> Run:
    finalize.keep_evidence(plan.run_dir, checked.workload)
    stop = Stop(plan.run_dir, disk_space.reserve_bytes(checked))
    mlflow = (summary.tracking_uri(plan), summary.artifact_uri(plan))
    sink = events.open_sink(plan.run_dir, *mlflow, search=facts.search_id)
    return Run(plan, checked, record, stop, facts, sink, hosts, timeline)


def _run(run: Run, dashboard: str) -> int:
    stop = run.stop
    with stop.on_signals():
        try:
            status = _to_its_end(run, dashboard)
        except OUTSIDE as error:
            stop.watch_disk()
            if not stop.is_broken and not stop.because_of(error):
                raise
            status = _cut_off(run, None)
        log.info("ended with status %d; so far in seconds: %s", status, run.timeline.seconds)
        return status


def _to_its_end(run: Run, dashboard: str) -> int:
    """Train, leave everything in order, and say that nothing is left to be done, unless the search is to stop."""
    plan, record = run.plan, run.record
    _start_tracking(run)
    study = train(run)
    run.timeline.enter(Stage.REPORT)
    hosting.release(plan)
    try:
        run.stop.check()
        assessment, facts = finalize.leave(run, study)
        finalize.finish_tracking(run.sink, plan, assessment)
        finalize.close_tracking(run)
        run.stop.check()
    except Stopped:
        return _cut_off(run, study)
    rows = assessment.rows
    summary.show(plan, assessment, dashboard, run.facts.search_id)
    if (searched := len(record.of_phase(Phase.SEARCH))) < plan.trials:
        click.echo(f"\nOnly {searched} of {plan.trials} trials: there are no more configurations that differ.")
    save_facts(replace(facts, seconds=run.timeline.seconds), plan.run_dir)
    status = SOME_FAILED if any(row.status == Status.FAILED for row in rows) else OK
    status = status if handout.is_verified(facts) else NOT_VERIFIED
    record.completed(status if ranking.usable(rows) else NO_USABLE_TRIAL)
    process.leave_with("Stopped when all was done")
    return run.stop.status or record.exit_status or OK


def _start_tracking(run: Run) -> None:
    """Open the search's own run in MLflow."""
    saved = run.plan.model_dump(mode="json")
    params = {key: value for key, value in saved.items() if value is not None}
    tags = {"kind": "search", "status": Status.RUNNING, "coverage": run.facts.coverage or ""}
    run.sink.put("start", PARENT, name=run.plan.name, time_ms=now_ms(), params=params, tags=tags)
    run.sink.put("dataset", PARENT, name=run.plan.dataset, digest=run.checked.corpus_sha256)


def _cut_off(run: Run, study: optuna.Study | None) -> int:
    """Leave a search that stops before its end as it can be taken up again, and say how."""
    stop, again = run.stop, _again(run.plan)
    run.timeline.enter(Stage.REPORT)
    log.warning("stopped: %s", stop.shortage or stop.failure or f"signal {stop.signal}")
    if stop.shortage is not None:
        run.sink.close(most_seconds=0)  # it says nothing from now on; what MLflow lacks is in the outbox
    hosting.end(run.plan)
    if stop.shortage is not None:
        print(f"Error: {stop.shortage}; free some, then: {again}", file=sys.stderr)
        return NO_ROOM
    if stop.failure is not None:
        with suppress(OSError):  # as far as the disk allows
            _leave_so_far(run, study)
        run.sink.close(most_seconds=0)
        print(f"Error: {masked(stop.failure)}; to go on: {again}", file=sys.stderr)
        return CUT_OFF
    _leave_so_far(run, study)
    done, total = len(run.record.of_phase(Phase.SEARCH)), run.plan.trials
    click.echo(f"Stopped with {done} of {total} trials ended; nothing of them is lost. To go on: {again}")
    return stop.status


def _leave_so_far(run: Run, study: optuna.Study | None) -> None:
    """Leave a report of what there is, and MLflow without a run that seems to go on."""
    events.Tracking(run.sink).interrupted()
    facts = run.facts
    if run.record.rows:
        _, facts = finalize.leave(run, study, in_time=False)
        click.echo(f"\nReport so far    {summary.typed(run.plan.run_dir)}/report.md")
    finalize.close_tracking(run, in_time=False)
    save_facts(replace(facts, seconds=run.timeline.seconds), run.plan.run_dir)


def _again(plan: SearchPlan) -> str:
    """Return the command that takes a search up."""
    elsewhere = plan.runs_dir != str(Path(RUNS_DIR).resolve())
    return f"python tune.py --resume {plan.name}" + (f" --runs-dir {shlex.quote(plan.runs_dir)}" if elsewhere else "")
