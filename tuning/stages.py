"""The steps that a search takes, a new one or one that goes on: who follows it, checks, Ray and hosts, measuring."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from analysis.results.run_info import RunInfo
from trainables.actors.host_registry import Hosts
from tuning.cluster import connection, devices, hosting, node_check, ray_compat
from tuning.lifecycle import output, process, search_log
from tuning.lifecycle.search_log import FileLog
from tuning.lifecycle.stop import Stop
from tuning.lifecycle.timeline import Stage, Timeline
from tuning.observer import Guarded, SearchObserver
from tuning.plan.places import absolute
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import asking, checking, disk_space, measuring, preflight, preview
from tuning.preflight.always_plain import always_plain, in_words
from tuning.preflight.preflight import Preflight
from tuning.results import finalize, summary
from tuning.search_result import SearchStopped, Unusable
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


@contextmanager
def watched(observer: SearchObserver | None, command: str) -> Iterator[Watch]:
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
def refusing() -> Iterator[None]:
    """Say that a ValueError within is about what was asked for."""
    try:
        yield
    except ValueError as error:
        raise Unusable(str(error)) from error


def checked_where_torch_is(
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


def measured_by_hosts(
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


def prepared(plan: SearchPlan, checked: Preflight, record: Record, facts: RunInfo, hosts: Hosts, watch: Watch) -> Run:
    """Return a search that may begin to train: its sink, its time limit and what may stop it."""
    finalize.keep_evidence(plan.run_dir, checked.workload)
    stop = Stop(plan.run_dir, disk_space.reserve_bytes(checked))
    deadline = None
    if plan.time_limit is not None:
        estimate, timeline = preview.run_seconds(plan, checked), watch.timeline
        deadline = Deadline(plan, record, checked.workload.steps, estimate, lambda: sum(timeline.seconds.values()))
    mlflow = (summary.tracking_uri(plan), summary.artifact_uri(plan))
    sink = events.open_sink(plan.run_dir, *mlflow, search=facts.search_id, warn=watch.observer.warned)
    return Run(plan, checked, record, stop, facts, sink, hosts, watch.timeline, watch.observer, deadline)
