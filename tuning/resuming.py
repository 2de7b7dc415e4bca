"""A search that is taken up again: what it has noted, what is wanted of it now, and how it goes on."""

import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from analysis.results.run_info import RunInfo
from analysis.stats.assessment import assess
from strategies import CONTAINING_PLAIN
from tuning.lifecycle import process
from tuning.observer import SearchObserver
from tuning.plan import given
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import disk_space
from tuning.preflight.preflight import Preflight
from tuning.results import finalize, summary
from tuning.results.ending import RUNS_DIR, again, run_to_its_end
from tuning.results.report_again import report_again
from tuning.search_result import SearchResult
from tuning.stages import Watch, checked_where_torch_is, measured_by_hosts, prepared, refusing, watched
from tuning.state import continuation, run_folder
from tuning.state.record import Record
from tuning.trials.phases import Run


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
        watch = stack.enter_context(watched(observer, process.command_line() or f"resume({name!r})"))
        with refusing():
            before = _taken_up(stack, name, extend, choices, watch.observer)
            if (result := _without_training(before, extend, allow_changes, watch)) is not None:
                return result
            run, dashboard = _going_on(stack, before, allow_changes, watch)
        return run_to_its_end(run(), dashboard)


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A search that is taken up.

    Args:
        record: What it has noted.
        saved: Its plan so far.
        plan: Its plan from now on.
        changes: What of the plan changes, in words.
    """

    record: Record
    saved: SearchPlan
    plan: SearchPlan
    changes: list[str]


def _taken_up(
    stack: ExitStack, name: str, extend: int, choices: Mapping[str, Any], observer: SearchObserver
) -> TakenUp:
    """Read what a search has noted, which nobody else may run until ``stack`` ends, and what is wanted of it now."""
    if handed_over := given.handed_over(choices):
        raise ValueError(f"{', '.join(handed_over)}: a search that goes on has its own; give a path, or nothing")
    if extend < 0:
        raise ValueError(f"--extend {extend}: a search keeps the trials that it has; give 0 or more")
    run_dir = continuation.folder_of(name, choices.get("runs_dir") or RUNS_DIR)
    stack.enter_context(continuation.locked(run_dir))
    record = Record(run_dir)
    saved = continuation.saved_plan(record)
    continuation.check_trials(record)
    for line in record.damage:
        observer.warned(f"{line}; going on with what is whole")
    if extend and record.exit_status is None:
        ahead = f"end it first with {again(saved)}"
        raise ValueError(f"--extend {extend}: only a finished search is extended, and {run_dir.name} is not; {ahead}")
    plan, changes = continuation.changed_plan(saved, choices, extend, continuation.base_of(record))
    continuation.check_pairs(record, changes)
    return TakenUp(record, saved, plan, changes)


def _without_training(search: TakenUp, extend: int, allow_changes: bool, watch: Watch) -> SearchResult | None:
    """Return what a search has found in which nothing is left to be trained, shown or reported anew; None if it has."""
    plan, record, changes = search.plan, search.record, search.changes
    _refuse(plan, changes, allow_changes)
    if record.exit_status is not None and not extend and not changes:
        return _complete(plan, record, watch.observer)
    may_report = not extend and continuation.are_of_the_report(changes)
    if may_report and (result := report_again(plan, record, changes, watch.observer)) is not None:
        watch.log_file.write_to(record.run_dir)
        return result
    return None


def _going_on(stack: ExitStack, search: TakenUp, allow_changes: bool, watch: Watch) -> tuple[Callable[[], Run], str]:
    """Check and measure a search as a new one, and note how it goes on.

    Returns:
        What makes the run, and the address of Ray's dashboard.
    """
    record, plan, changes = search.record, search.plan, search.changes
    process.leave_with(f"Stopped. To go on: {again(plan)}")
    watch.observer.planned(plan)
    origin = continuation.origin(record, plan)
    search_id = origin["search_id"] or uuid.uuid4().hex
    kept = {"corpus_sha256": plan.corpus_sha256, "time_limit": plan.time_limit}  # what follows from both stays
    plan = plan.model_copy(update={**dict.fromkeys(kept), "learning_rate": plan.centre_learning_rate})
    plan, checked, begun = checked_where_torch_is(stack, plan, search_id, watch)
    plan = plan.model_copy(update=kept)
    others = continuation.other_circumstances(origin, str(checked.workload.base), checked.corpus_sha256)
    continuation.check_pairs(record, others)
    _refuse(plan, others, allow_changes)
    disk_space.check(plan, checked, len(record.rows))
    if search.saved.confirm_seeds:  # it began with the promise of a verdict
        checked = replace(checked, has_verdict=True)
    if not changes and not others:
        checked = replace(checked, base_losses=record.base_losses)
    plan, checked, hosts, dashboard = measured_by_hosts(stack, plan, checked, begun or search_id, watch)
    watch.timeline.add(continuation.seconds_so_far(record.run_dir))
    facts = _facts(plan, checked, search_id, record, [*changes, *others])
    facts = replace(facts, seconds=watch.timeline.seconds)
    watch.log_file.write_to(record.run_dir)
    run_folder.note_plan(record, plan, facts, [*changes, *others])
    return functools.partial(prepared, plan, checked, record, facts, hosts, watch), dashboard


def _facts(plan: SearchPlan, checked: Preflight, search_id: str, record: Record, changes: Sequence[str]) -> RunInfo:
    facts = run_folder.facts_of(plan, checked, search_id, record)
    curve = finalize.known_curve(assess(list(record.rows.values()), plan.margin, CONTAINING_PLAIN), record)
    return replace(facts, changes=(*facts.changes, *changes), shrink=curve)


def _refuse(plan: SearchPlan, changes: Sequence[str], allowed: bool) -> None:
    if changes and not allowed:
        ways = "go on as it began, or give --allow-changes to have that recorded"
        raise ValueError(f"--resume {plan.name}: {'; '.join(changes)}; {ways}")


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
