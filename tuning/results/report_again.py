"""Another report of a finished search, for which nothing is trained and no Ray is started."""

import datetime
import logging
from collections.abc import Sequence
from dataclasses import replace

from analysis.report.card import Use, card
from analysis.results.atomic_write import replace_text
from analysis.results.run_info import RunInfo, in_words
from analysis.results.trial_config import AFTER_SEARCH
from analysis.stats.assessment import SearchAssessment, assess
from trainables.models import hub
from trainables.postprocess.verification import loaded_from
from trainables.training.checkpoint import UNIFORM
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.results import finalize, summary
from tuning.search_result import SearchResult
from tuning.state import run_folder
from tuning.state.record import Record
from tuning.tracking import events
from tuning.trials.confirmation import confirmations, controls, sizes

log = logging.getLogger(__name__)


def report_again(
    plan: SearchPlan, record: Record, changes: Sequence[str], observer: SearchObserver
) -> SearchResult | None:
    """Judge the trials of a finished search by another margin; None if something must be trained or measured for that.

    Args:
        plan: With the other margin.
        record: The search's; nothing is left to be done.
        changes: What differs, in words.
        observer: Hears what was found.
    """
    if (status := record.exit_status) is None:
        return None
    earlier = RunInfo.of_run(plan.run_dir, "")
    assessment = assess(list(record.rows.values()), plan.margin, earlier.containing_plain)
    if not _is_all_there(plan, record, assessment, plan.model_copy(update={"margin": earlier.margin})):
        return None
    record.judged(f"{plan.trials} trials, {plan.confirm_seeds} seeds, margin {plan.margin_in_words}")
    facts = replace(
        earlier,
        margin=plan.margin,
        changes=(*earlier.changes, *changes),
        continued=(*earlier.continued, run_folder.command_of(plan)),
        looks=len(record.looks),
    )
    run_folder.note_plan(record, plan, facts, changes)
    info = replace(facts, generated=f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}")
    from analysis.report.publish import publish  # here: it loads Matplotlib

    publish(assessment, info, plan.run_dir / "report.md")
    _write_cards(plan, record, assessment, info)
    _tell_mlflow(plan, assessment, info, observer)
    record.completed(status)
    for line in summary.lines(plan, assessment, "", info.search_id, info.coverage):
        observer.noted(line)
    result = SearchResult(plan.run_dir, status)
    log.info("another report, for which nothing was trained: %s", "; ".join(changes))
    observer.finished(result)
    return result


def _is_all_there(plan: SearchPlan, record: Record, assessment: SearchAssessment, before: SearchPlan) -> bool:
    """Return True if the same runs confirm what was found, and the same adapter is to be used.

    Runs that the search has ended without, since its time was over, are not missed.

    Args:
        plan: With the other margin.
        record: The search's.
        assessment: By the other margin.
        before: The plan with the margin that the search had.
    """
    best = assessment.recommended
    there = {row.trial_id for phase in AFTER_SEARCH for row in record.of_phase(phase)}
    ended_without = _wanted(before, assessment) - there
    if best is None or record.handout is None or there != _wanted(plan, assessment) - ended_without:
        return False
    trial_id, folders = record.handout
    return trial_id == best.trial_id and all((plan.run_dir / name).is_dir() for name in folders)


def _wanted(plan: SearchPlan, assessment: SearchAssessment) -> set[str]:
    """Return the ids of all runs that confirm what was found."""
    made = (confirmations, sizes, controls)
    return {config.trial_id for make in made for config in make(plan, assessment.rows)}


def _write_cards(plan: SearchPlan, record: Record, assessment: SearchAssessment, info: RunInfo) -> None:
    best, base = assessment.recommended, loaded_from(hub.at(plan.model, plan.model_revision))
    assert best is not None
    assert record.handout is not None
    for name, seen in record.handout[1].items():
        folder = plan.run_dir / name
        use = Use(*base, str(folder.resolve()), name.startswith(UNIFORM), in_words(seen))
        replace_text(folder / "README.md", card(best, assessment, info, use))


def _tell_mlflow(plan: SearchPlan, assessment: SearchAssessment, info: RunInfo, observer: SearchObserver) -> None:
    mlflow = (summary.tracking_uri(plan), summary.artifact_uri(plan))
    sink = events.open_sink(plan.run_dir, *mlflow, search=info.search_id, warn=observer.warned)
    finalize.finish_tracking(sink, plan, assessment)
    sink.close(most_seconds=finalize.MLFLOW_SECONDS)
