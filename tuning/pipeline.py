"""From a plan to a finished run folder: check, train, confirm, report; whoever wants to see it is an observer."""

import datetime
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from analysis.results.run_info import RunInfo
from analysis.stats.assessment import assess
from strategies import CONTAINING_PLAIN
from trainables.actors.host_registry import Hosts
from tuning.cluster import connection, devices, hosting, node_check, ray_compat
from tuning.lifecycle import output, process, search_log
from tuning.lifecycle.search_log import FileLog
from tuning.lifecycle.stop import Stop
from tuning.lifecycle.timeline import Stage, Timeline
from tuning.observer import Guarded, SearchObserver
from tuning.plan import given, time_limit
from tuning.plan.places import absolute
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import asking, checking, disk_space, learning_rate, measuring, preflight, preview
from tuning.preflight.always_plain import always_plain, in_words
from tuning.preflight.preflight import Preflight
from tuning.results import finalize, summary
from tuning.results.ending import RUNS_DIR as RUNS_DIR
from tuning.results.ending import again, run_to_its_end
from tuning.results.report_again import report_again
from tuning.search_result import SearchResult, SearchStopped, Unusable
from tuning.state import continuation, run_folder
from tuning.state.record import Record
from tuning.tracking import events
from tuning.trials.deadline import Deadline
from tuning.trials.phases import Run

log = logging.getLogger(__name__)
_only_one = threading.Lock()
"""Whoever searches in this process holds it: Ray, its signals and what libraries log are the whole process's."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who follows a search, whatever becomes of it."""

    observer: SearchObserver
    timeline: Timeline
    log_file: FileLog


@dataclass(frozen=True, slots=True)
class Begun:
    """What has begun before model and data are read.

    Args:
        hosts: They have not loaded the base.
        dashboard: Address of Ray's.
    """

    hosts: Hosts
    dashboard: str


def dry_run(plan: SearchPlan, as_json: bool = False, observer: SearchObserver | None = None) -> None:
    """Have an observer note what a plan would do, and train nothing.

    Raises:
        Unusable: Something about the plan is wrong.
    """
    observer = Guarded(observer)
    with _refusing():
        checked = measuring.looked_at_here(plan, preflight.check(plan, needs_weights=False))
        plan = time_limit.planned(plan, preview.run_seconds(plan, checked), checked.has_verdict)
    for line in [preview.as_json(plan, checked)] if as_json else preview.lines(plan, checked):
        observer.noted(line)


def search(plan: SearchPlan, observer: SearchObserver | None = None) -> SearchResult:
    """Carry out a plan and return what was found.

    Nothing is printed, and no signal is taken where this is not the main thread.

    Args:
        plan: What to search.
        observer: Hears what happens.

    Raises:
        Unusable: Something about the plan is wrong; nothing has been written. It is a ``ValueError``.
        SearchStopped: The search has ended before its end, and ``resume`` takes it up: a signal came, a disk is full,
            or a disk or Ray failed.
        OSError: The same before there was anything to take up: of a disk.
        RayError: And of Ray.
    """
    is_named = plan.name is not None
    plan = plan.model_copy(update={"name": plan.name or f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"})
    with ExitStack() as stack:
        watch = stack.enter_context(_watched(observer, run_folder.command_of(plan)))
        watch.observer.planned(plan)
        with _refusing():
            if is_named and os.path.lexists(plan.run_dir):
                continued = f"--resume {plan.name} takes it up"
                raise ValueError(f"--name {plan.name}: {plan.run_dir} exists; choose another name, or {continued}")
            plan = stack.enter_context(run_folder.given_saved(plan, is_named))
            search_id = uuid.uuid4().hex
            plan, checked, begun = _checked(stack, plan, search_id, watch)
            disk_space.check(plan, checked)
            plan, checked, hosts, dashboard = _measured(stack, plan, checked, begun or search_id, watch)
            facts = replace(run_folder.facts_of(plan, checked, search_id), seconds=watch.timeline.seconds)
            plan, record = run_folder.created(plan, facts, is_named)
            process.leave_with(f"Stopped. To go on: {again(plan)}")
            stack.enter_context(continuation.locked(plan.run_dir))
            watch.log_file.write_to(plan.run_dir)
        return run_to_its_end(_prepared(plan, checked, record, facts, hosts, watch), dashboard)


def resume(
    name: str,
    *,
    extend: int = 0,
    allow_changes: bool = False,
    observer: SearchObserver | None = None,
    **choices: Any,
) -> SearchResult:
    """Take a search up again and return what was found; one that is complete is left as it is.

    Args:
        name: Of the search; ``latest`` is the newest.
        extend: Trials to add to it.
        allow_changes: Whether choices, libraries, texts and base may differ from what it began with.
        observer: Hears what happens.
        choices: Those of a plan that are given now; ``runs_dir`` says where the search is (None: the default).

    Raises:
        Unusable: There is no such search, another process runs it, or something about it is different.
        SearchStopped: As of ``search``.
        OSError: Another report of a finished search cannot be written.
    """
    with ExitStack() as stack:
        watch = stack.enter_context(_watched(observer, process.command_line() or f"resume({name!r})"))
        with _refusing():
            if handed_over := given.handed_over(choices):
                raise ValueError(
                    f"{', '.join(handed_over)}: a search that goes on has its own; give a path, or nothing"
                )
            if extend < 0:
                raise ValueError(f"--extend {extend}: a search keeps the trials that it has; give 0 or more")
            run_dir = continuation.folder_of(name, choices.get("runs_dir") or RUNS_DIR)
            name = run_dir.name
            stack.enter_context(continuation.locked(run_dir))
            record = Record(run_dir)
            before = continuation.saved_plan(record)
            continuation.check_trials(record)
            for line in record.damage:
                watch.observer.warned(f"{line}; going on with what is whole")
            if extend and record.exit_status is None:
                ahead = f"end it first with {again(before)}"
                raise ValueError(f"--extend {extend}: only a finished search is extended, and {name} is not; {ahead}")
            plan, changes = continuation.changed_plan(before, choices, extend, continuation.base_of(record))
            continuation.check_pairs(record, changes)
            _refuse(name, changes, allow_changes)
            if record.exit_status is not None and not extend and not changes:
                return _complete(plan, record, watch.observer)
            may_report = not extend and continuation.are_of_the_report(changes)
            if may_report and (result := report_again(plan, record, changes, watch.observer)) is not None:
                watch.log_file.write_to(run_dir)
                return result
            process.leave_with(f"Stopped. To go on: {again(plan)}")
            watch.observer.planned(plan)
            origin = continuation.origin(record, plan)
            search_id = origin["search_id"] or uuid.uuid4().hex
            kept = {"corpus_sha256": plan.corpus_sha256, "time_limit": plan.time_limit}  # what follows from both stays
            plan = plan.model_copy(update={**dict.fromkeys(kept), "learning_rate": plan.centre_learning_rate})
            plan, checked, begun = _checked(stack, plan, search_id, watch)
            plan = plan.model_copy(update=kept)
            others = continuation.other_circumstances(origin, str(checked.workload.base), checked.corpus_sha256)
            continuation.check_pairs(record, others)
            _refuse(name, others, allow_changes)
            disk_space.check(plan, checked, len(record.rows))
            if before.confirm_seeds:  # it began with the promise of a verdict
                checked = replace(checked, has_verdict=True)
            if not changes and not others:
                checked = replace(checked, base_losses=record.base_losses)
            plan, checked, hosts, dashboard = _measured(stack, plan, checked, begun or search_id, watch)
            watch.timeline.add(continuation.seconds_so_far(run_dir))
            facts = run_folder.facts_of(plan, checked, search_id, record)
            curve = finalize.known_curve(assess(list(record.rows.values()), plan.margin, CONTAINING_PLAIN), record)
            changed = (*facts.changes, *changes, *others)
            facts = replace(facts, changes=changed, shrink=curve, seconds=watch.timeline.seconds)
            watch.log_file.write_to(run_dir)
            run_folder.note_plan(record, plan, facts, [*changes, *others])
        return run_to_its_end(_prepared(plan, checked, record, facts, hosts, watch), dashboard)


@contextmanager
def _watched(observer: SearchObserver | None, command: str) -> Iterator[Watch]:
    """Measure and log a search from here on, and tell an observer of it.

    Raises:
        Unusable: Another search runs in this process.
    """
    if not _only_one.acquire(blocking=False):
        raise Unusable("another search runs in this process now; wait for it, or begin this one in another process")
    with ExitStack() as stack:
        stack.callback(_only_one.release)
        process.leave_with(process.NOTHING_BEGUN)  # an earlier search of this process has left its own words
        yield stack.enter_context(_logged(observer, command))


@contextmanager
def _logged(observer: SearchObserver | None, command: str) -> Iterator[Watch]:
    guarded = Guarded(observer)
    with search_log.heard_by(FileLog(guarded.warned)) as log_file:
        log.info("%s, process %d", command, os.getpid())
        output.log_losses()
        timeline = Timeline(Stage.IMPORTS, process.seconds_before_search(), entered=guarded.stage_began)
        timeline.enter(Stage.CHECKS)
        try:
            yield Watch(guarded, timeline, log_file)
        except (Unusable, SearchStopped):
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


def _complete(plan: SearchPlan, record: Record, observer: SearchObserver) -> SearchResult:
    """Show what a search has found in which nothing is left to be done."""
    observer.noted(f"{plan.name} is complete; --extend N would add trials")
    try:
        coverage = RunInfo.of_run(plan.run_dir, "").coverage
    except ValueError:  # nothing else of the file is needed here
        coverage = None
    assessment = assess(list(record.rows.values()), plan.margin, CONTAINING_PLAIN)
    for line in summary.lines(plan, assessment, "", "", coverage):
        observer.noted(line)
    result = SearchResult(plan.run_dir, record.exit_status)
    observer.finished(result)
    return result


def _checked(
    stack: ExitStack, plan: SearchPlan, search_id: str, watch: Watch
) -> tuple[SearchPlan, Preflight, Begun | None]:
    """Have a plan checked where torch is.

    Returns:
        Plan and preflight; and Ray and hosts, which end with ``stack``, if it took a host: all that is decided before
        the base is loaded is decided then.
    """
    if not asking.asks_a_host(plan):
        checked = preflight.check(plan)
        return checking.in_time(plan, checked, watch.observer), checked, None
    asking.check_at_once(plan)
    watch.timeline.enter(Stage.RAY)
    dashboard = stack.enter_context(_ray(plan, None, search_id, watch.observer))
    plan = devices.decided(plan, watch.observer)
    hosts = stack.enter_context(hosting.hosts_for(plan, None))
    watch.timeline.enter(Stage.CHECKS)
    answer = asking.by_host(plan, hosts, watch.observer)
    return answer.plan, answer.preflight, Begun(hosts, dashboard)


def _measured(
    stack: ExitStack, plan: SearchPlan, checked: Preflight, begun: Begun | str, watch: Watch
) -> tuple[SearchPlan, Preflight, Hosts, str]:
    """Have hosts load the base and measure, and return what is known then.

    Args:
        stack: What Ray and hosts end with.
        plan: The search.
        checked: What is known of it.
        begun: Ray and hosts, or under which id of the search they are to begin.
        watch: Who follows it.

    Returns:
        Plan, preflight and hosts, and the address of Ray's dashboard.
    """
    observer, timeline = watch.observer, watch.timeline
    if isinstance(begun, Begun):
        timeline.enter(Stage.LOADING)
        hosts, dashboard = begun.hosts.sharing(checked.workload), begun.dashboard
        hosting.load(plan, hosts)
    else:
        observer.sized(preview.size(plan, checked))
        timeline.enter(Stage.RAY)
        dashboard = stack.enter_context(_ray(plan, checked, begun, observer))
        plan = devices.decided(plan, observer)
        plan, checked = checking.fitted(plan, checked, devices.memory_there(plan), observer)
        timeline.enter(Stage.LOADING)
        hosts = stack.enter_context(hosting.hosts_for(plan, checked.workload))
    timeline.enter(Stage.MEASURING)
    plan, checked = measuring.measured(plan, checked, hosts, observer)
    plan, checked = learning_rate.centred(plan, checked, hosts, observer)
    if (coverage := checked.shape.coverage).left_out or coverage.outside:
        observer.noted(str(coverage))
    if not plan.official and (plain := always_plain(plan.strategies, checked.workload)):
        observer.noted(in_words(plain))
    timeline.enter(Stage.CHECKS)
    return absolute(plan.model_copy(update=checked.pinned)), checked, hosts.sharing(checked.workload), dashboard


@contextmanager
def _ray(plan: SearchPlan, checked: Preflight | None, search_id: str, observer: SearchObserver) -> Iterator[str]:
    with connection.ray_for(plan, search_id, observer) as dashboard:
        if checked is not None and (plan.ray_address is not None or not ray_compat.began_here()):
            node_check.check(plan, checked.workload)
        observer.noted(f"Ray dashboard, while this search runs: http://{dashboard} (its token: ray get-auth-token)")
        if gpus := connection.unused_gpus(plan):
            observer.noted(f"Ray has {gpus} GPU(s) and --gpus-per-trial is 0: training on CPU")
        yield dashboard


def _prepared(plan: SearchPlan, checked: Preflight, record: Record, facts: RunInfo, hosts: Hosts, watch: Watch) -> Run:
    finalize.keep_evidence(plan.run_dir, checked.workload)
    stop = Stop(plan.run_dir, disk_space.reserve_bytes(checked))
    deadline = None
    if plan.time_limit is not None:
        estimate, timeline = preview.run_seconds(plan, checked), watch.timeline
        deadline = Deadline(plan, record, checked.workload.steps, estimate, lambda: sum(timeline.seconds.values()))
    mlflow = (summary.tracking_uri(plan), summary.artifact_uri(plan))
    sink = events.open_sink(plan.run_dir, *mlflow, search=facts.search_id, warn=watch.observer.warned)
    return Run(plan, checked, record, stop, facts, sink, hosts, watch.timeline, watch.observer, deadline)
