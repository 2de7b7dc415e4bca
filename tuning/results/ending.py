"""A search from its first trial to its end, or to where it stops in order."""

import logging
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna

from analysis.results.messages import masked
from analysis.results.trial_config import Phase, Status
from analysis.stats import ranking
from tuning.cluster import hosting
from tuning.lifecycle import process
from tuning.lifecycle.process import CUT_OFF, DISK_FULL, NO_USABLE_TRIAL, NOT_VERIFIED, OK, SOME_FAILED
from tuning.lifecycle.stop import OUTSIDE, Stopped
from tuning.lifecycle.timeline import Stage
from tuning.plan.search_plan import SearchPlan
from tuning.results import finalize, handout, summary
from tuning.search_result import SearchResult, SearchStopped
from tuning.state.facts import save_facts
from tuning.tracking import events
from tuning.tracking.mlflow_client import PARENT, now_ms
from tuning.trials.phases import Run, train

log = logging.getLogger(__name__)
RUNS_DIR = SearchPlan.model_fields["runs_dir"].default


def run_to_its_end(run: Run, dashboard: str) -> SearchResult:
    """Train, and leave everything in order.

    Args:
        run: The search; its folder is there.
        dashboard: Address of Ray's.

    Raises:
        SearchStopped: By a signal, or since a disk or Ray failed.
    """
    stop = run.stop
    with stop.on_signals():
        try:
            result = _to_its_end(run, dashboard)
        except SearchStopped as error:
            _log_end(run, error.status)
            raise
        except OUTSIDE as error:
            stop.watch_disk()
            if not stop.is_broken and not stop.because_of(error):
                raise
            stopped = _cut_off(run, None)
            _log_end(run, stopped.status)
            raise stopped from error
        except BaseException:
            run.sink.close(most_seconds=0)  # in a program, what takes the search up shall carry what MLflow lacks
            raise
        _log_end(run, result.status or OK)
        return result


def again(plan: SearchPlan) -> str:
    """Return the command that takes a search up."""
    elsewhere = plan.runs_dir != str(Path(RUNS_DIR).resolve())
    return f"{process.program()} --resume {plan.name}" + (
        f" --runs-dir {shlex.quote(plan.runs_dir)}" if elsewhere else ""
    )


def _log_end(run: Run, status: int) -> None:
    log.info("ended with status %d; so far in seconds: %s", status, run.timeline.seconds)


def _to_its_end(run: Run, dashboard: str) -> SearchResult:
    """Train, leave everything in order, and say that nothing is left to be done.

    Raises:
        SearchStopped: The search is to stop.
    """
    plan, record = run.plan, run.record
    _start_tracking(run)
    study = train(run)
    run.timeline.enter(Stage.REPORT)
    hosting.release(plan, run.hosts)
    try:
        run.stop.check()
        assessment, facts = finalize.leave(run, study)
        _track_base(run)
        finalize.finish_tracking(run.sink, plan, assessment)
        finalize.close_tracking(run)
        run.stop.check()
    except Stopped:
        raise _cut_off(run, study) from None
    rows = assessment.rows
    for line in summary.lines(plan, assessment, dashboard, facts.search_id, facts.coverage):
        run.observer.noted(line)
    is_short = run.deadline is not None and run.deadline.kept_out
    if (searched := len(record.of_phase(Phase.SEARCH))) < plan.trials and not is_short:
        run.observer.noted(f"\nOnly {searched} of {plan.trials} trials: there are no more configurations that differ.")
    save_facts(replace(facts, seconds=run.timeline.seconds), plan.run_dir)
    status = SOME_FAILED if any(row.status == Status.FAILED for row in rows) else OK
    status = status if handout.is_verified(facts) else NOT_VERIFIED
    record.completed(status if ranking.usable(rows) else NO_USABLE_TRIAL)
    process.leave_with("Stopped when all was done")
    result = SearchResult(plan.run_dir, run.stop.status or record.exit_status or OK)
    run.observer.finished(result)
    return result


def _start_tracking(run: Run) -> None:
    """Open the search's own run in MLflow."""
    saved = run.plan.model_dump(mode="json")
    params = {key: value for key, value in saved.items() if value is not None}
    tags = {"kind": "search", "status": Status.RUNNING, "coverage": run.facts.coverage or ""}
    run.sink.put("start", PARENT, name=run.plan.name, time_ms=now_ms(), params=params, tags=tags)
    name, digest = run.data
    run.sink.put("dataset", PARENT, name=name, digest=digest)
    _track_base(run)


def _track_base(run: Run) -> None:
    """Log the losses of the untouched base, as far as they are known; anew where something was allowed to change."""
    changed = sum(bool(plan["changes"]) for plan in run.record.plans)
    events.Tracking(run.sink).base(run.record.base_losses, changed)


def _cut_off(run: Run, study: optuna.Study | None) -> SearchStopped:
    """Leave a search that stops before its end as it can be taken up again, say how, and return it as an error."""
    stop, how, observer = run.stop, again(run.plan), run.observer
    run.timeline.enter(Stage.REPORT)
    log.warning("stopped: %s", stop.shortage or stop.failure or f"signal {stop.signal}")
    if stop.shortage is not None:
        run.sink.close(most_seconds=0)  # it says nothing from now on; what MLflow lacks is in the outbox
    hosting.end(run.hosts)
    if stop.shortage is not None:
        why, status = f"{stop.shortage}; free some, then: {how}", DISK_FULL
        observer.warned(f"Error: {why}")
    elif stop.failure is not None:
        with suppress(OSError):  # as far as the disk allows
            _leave_so_far(run, study)
        run.sink.close(most_seconds=0)
        why, status = f"{masked(stop.failure)}; to go on: {how}", CUT_OFF
        observer.warned(f"Error: {why}")
    else:
        _leave_so_far(run, study)
        done, total = len(run.record.of_phase(Phase.SEARCH)), run.plan.trials
        why, status = (
            f"Stopped with {done} of {total} trials ended; nothing of them is lost. To go on: {how}",
            stop.status,
        )
        observer.noted(why)
    return SearchStopped(why, status, SearchResult(run.plan.run_dir, status))


def _leave_so_far(run: Run, study: optuna.Study | None) -> None:
    """Leave a report of what there is, and MLflow without a run that seems to go on."""
    events.Tracking(run.sink).interrupted()
    facts = run.facts
    if run.record.rows:
        _, facts = finalize.leave(run, study, in_time=False)
        run.observer.noted(f"\nReport so far    {summary.typed(run.plan.run_dir)}/report.md")
    finalize.close_tracking(run, in_time=False)
    save_facts(replace(facts, seconds=run.timeline.seconds), run.plan.run_dir)
