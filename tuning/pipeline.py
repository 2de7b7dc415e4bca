"""A search from its plan to its finished run folder; whoever wants to see it is an observer."""

import datetime
import os
import uuid
from contextlib import ExitStack
from dataclasses import replace

from tuning.lifecycle import process
from tuning.observer import Guarded, SearchObserver
from tuning.plan import time_limit
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import disk_space, measuring, preflight, preview
from tuning.results.ending import again, run_to_its_end
from tuning.search_result import SearchResult
from tuning.stages import checked_where_torch_is, measured_by_hosts, prepared, refusing, watched
from tuning.state import continuation, run_folder


def dry_run(plan: SearchPlan, as_json: bool = False, observer: SearchObserver | None = None) -> None:
    """Have an observer note what a plan would do, and train nothing.

    Raises:
        Unusable: Something about the plan is wrong.
    """
    observer = Guarded(observer)
    with refusing():
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
        watch = stack.enter_context(watched(observer, run_folder.command_of(plan)))
        watch.observer.planned(plan)
        with refusing():
            if is_named and os.path.lexists(plan.run_dir):
                continued = f"--resume {plan.name} takes it up"
                raise ValueError(f"--name {plan.name}: {plan.run_dir} exists; choose another name, or {continued}")
            plan = stack.enter_context(run_folder.given_saved(plan, is_named))
            search_id = uuid.uuid4().hex
            plan, checked, begun = checked_where_torch_is(stack, plan, search_id, watch)
            disk_space.check(plan, checked)
            plan, checked, hosts, dashboard = measured_by_hosts(stack, plan, checked, begun or search_id, watch)
            facts = replace(run_folder.facts_of(plan, checked, search_id), seconds=watch.timeline.seconds)
            plan, record = run_folder.created(plan, facts, is_named)
            process.leave_with(f"Stopped. To go on: {again(plan)}")
            stack.enter_context(continuation.locked(plan.run_dir))
            watch.log_file.write_to(plan.run_dir)
        return run_to_its_end(prepared(plan, checked, record, facts, hosts, watch), dashboard)
