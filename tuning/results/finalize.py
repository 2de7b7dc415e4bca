"""What a search leaves: tables, study, the winner's adapter and card, the report, and MLflow's share of them."""

import datetime
import json
import logging
from dataclasses import replace
from pathlib import Path

import optuna
from ray.exceptions import RayError

from analysis.report import verdict_file
from analysis.results.atomic_write import replace_text
from analysis.results.rows import ResultRow, write_rows
from analysis.results.run_info import EVIDENCE, FACTS, FIGURES, PLAN, RunInfo
from analysis.results.trial_config import Status
from analysis.stats import ranking
from analysis.stats.assessment import SearchAssessment, assess
from analysis.stats.recommendation import recommend
from trainables.spec import Workload
from trainables.training import checkpoint
from trainables.training.checkpoint import ADAPTER, BEST, SESSION, UNVERIFIED
from tuning.cluster.hosting import ask
from tuning.lifecycle import process
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import measuring
from tuning.results import handout, samples, summary, trial_files
from tuning.state.checkpoints import newest_checkpoint
from tuning.state.facts import save_facts
from tuning.state.record import Record
from tuning.tracking import events
from tuning.tracking.mlflow_client import PARENT, now_ms
from tuning.trials.phases import Run
from tuning.trials.study_export import importances, mirror

log = logging.getLogger(__name__)
TEST_LOSS = measuring.BASE_LOSSES["test"]
MLFLOW_SECONDS, SHORT_PATIENCE_SECONDS = 60.0, 5.0


def keep_evidence(run_dir: Path, workload: Workload) -> None:
    """Write what strategies score from beside what they made of it."""
    if workload.evidence:
        replace_text(run_dir / EVIDENCE, json.dumps(workload.evidence, indent=1) + "\n")


def leave(run: Run, study: optuna.Study | None, in_time: bool = True) -> tuple[SearchAssessment, RunInfo]:
    """Write what a run leaves, and return what its rows say and its facts; what an earlier run left is replaced.

    Args:
        run: The search.
        study: Optuna's; None if nothing was searched.
        in_time: Whether there is time for a picture of each trial, and to measure the winner and to verify its
            adapter. If not, that is handed out unverified, beside the one that an earlier run left.

    Raises:
        Stopped: There was, and then no more.
    """
    plan, record = run.plan, run.record
    rows = list(record.rows.values())
    assessment = assess(rows, plan.margin, run.facts.containing_plain)
    best = assessment.recommended
    log.info("report of %d trials; recommended: %s", len(rows), best and best.experiment_name)
    write_rows(rows, plan.run_dir / "rows.csv")
    if any(item.pairs.interval for item in assessment.verdicts):
        record.judged(f"{plan.trials} trials, {plan.confirm_seeds} seeds, margin {plan.margin_in_words}")
    if in_time and any(row.test_loss is not None for row in rows) and TEST_LOSS not in record.base_losses:
        record.base_measured(measuring.base_loss(plan, run.hosts, "test", run.observer, run.stop))
    facts = replace(
        run.facts,
        resource_events=tuple(record.resource_events),
        looks=len(record.looks),
        base_losses=dict(record.base_losses),
    )
    if study is not None:
        mirror(study, plan.run_dir / "optuna.journal", plan.run_dir.name)
        facts = replace(facts, importance=importances(study))
    adapter, forms, failure = _whole_adapter(run, best) if best else None, None, None
    if in_time:
        trial_files.write(plan.run_dir, rows, run.stop.check)
        if best and adapter:
            if curve := _shrink_curve(run, adapter):
                record.shrunk(best.trial_id, curve)
            failure = samples.write(run, assessment, lambda row: adapter_of(plan, row))
            forms = handout.prepared(run, adapter, best.final_eval_loss)
    if best:
        facts = replace(facts, handed_out=handout.folders(record, best, adapter, forms))
        for line in handout.set_apart(plan.run_dir, record, best, facts.handed_out):
            run.observer.warned(line)
        facts = samples.told(run, facts, best, failure)
    facts = replace(facts, shrink=known_curve(assessment, record), seconds=run.timeline.seconds)
    save_facts(facts, plan.run_dir)
    info = replace(facts, generated=f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}")
    if best and forms:
        handout.put(run, forms, best, assessment, info)
        record.handed_out(best.trial_id, forms.losses)
    from analysis.report.publish import publish  # here: it loads Matplotlib, and trials do not wait for that

    publish(assessment, info, plan.run_dir / "report.md")
    if best and adapter and BEST + UNVERIFIED in facts.handed_out and not forms:
        handout.put_unverified(run, adapter, best, assessment, info)
    return assessment, facts


def known_curve(assessment: SearchAssessment, record: Record) -> list[dict[str, float]]:
    """Return what is known of the winner so far at fewer parameters; empty if that was not measured."""
    best = assessment.recommended
    return [] if best is None else record.shrink.get(best.trial_id, [])


def adapter_of(plan: SearchPlan, row: ResultRow) -> Path | None:
    """Return the folder of the adapter that a row's losses are of; None if there is none that is whole."""
    newest = newest_checkpoint(plan, row.experiment_name)
    progress = None if newest is None else checkpoint.progress_of(newest / SESSION)
    if newest is None or progress is None or not row.history or progress.step != row.history[-1]["step"]:
        return None
    return newest / SESSION / ADAPTER


def finish_tracking(sink: events.Sink, plan: SearchPlan, assessment: SearchAssessment) -> None:
    """Log what is known only at the end: pictures, the best adapters, the parent's files."""
    for row in assessment.rows:
        sink.put("artifact", row.trial_id, path=str(trial_files.trial_folder(plan.run_dir, row)))
    best = {row.trial_id: row for row in assessment.best_of_each.values()}
    if (chosen := assessment.recommended) is not None:
        best[chosen.trial_id] = chosen
    for row in best.values():
        if (adapter := adapter_of(plan, row)) is not None:
            sink.put("artifact", row.trial_id, path=str(adapter), folder="adapter")
    for name in (PLAN, FACTS, "report.md", "report.html", verdict_file.NAME, "rows.jsonl", "rows.csv"):
        sink.put("artifact", PARENT, path=str(plan.run_dir / name))
    sink.put("artifact", PARENT, path=str(plan.run_dir / FIGURES), folder=FIGURES)
    samples.log_table(sink, plan.run_dir)
    to_mlflow = events.Tracking(sink)
    for row in assessment.rows:  # a crash may have taken from the outbox what the record has
        to_mlflow.ended(row)
    sink.end_open_runs(now_ms(), but=PARENT)
    status = Status.FINISHED if ranking.usable(assessment.rows) else Status.FAILED
    answers = {f"verdict {item.strategy}": item.answer for item in assessment.verdicts}
    recommendation = recommend(assessment)
    answer = {"verdict": str(recommendation.choice), "answer": " ".join(recommendation.sentences)}
    tags = {"status": status, **answer, **answers}
    sink.put("end", PARENT, status=events.END[status], tags=tags, time_ms=now_ms())


def close_tracking(run: Run, in_time: bool = True) -> None:
    """Wait a while for MLflow to have everything, and say what it lacks.

    Args:
        run: The search.
        in_time: Whether there is time to wait long.

    Raises:
        Stopped: There was, and then no more.
    """
    if in_time:
        arrived = run.sink.close(most_seconds=MLFLOW_SECONDS, check=run.stop.check)
    else:
        arrived = run.sink.close(most_seconds=SHORT_PATIENCE_SECONDS)
    if not arrived:
        to = f" --to {run.plan.mlflow_uri}" if run.plan.mlflow_uri else ""
        run.observer.warned(
            f"MLflow misses {run.sink.outbox.remaining()} events; once it is back: "
            f"{process.subcommand('replay', 'tuning.tracking replay')} {summary.typed(run.plan.run_dir)}{to}"
        )


def _whole_adapter(run: Run, best: ResultRow) -> Path | None:
    """Return the folder of the winner's adapter; None, and say so, if there is none that is whole."""
    if (adapter := adapter_of(run.plan, best)) is None:
        its_own = run.record.handout is not None and run.record.handout[0] == best.trial_id
        kept = f"; {BEST} stays as it was" if its_own and (run.plan.run_dir / BEST).exists() else ""
        run.observer.warned(f"no {BEST}: the last checkpoint of {best.experiment_name} is not whole{kept}")
    return adapter


def _shrink_curve(run: Run, adapter: Path) -> list[dict[str, float]]:
    """Measure the winner at fewer parameters, where the trials ran; nothing if that fails, and say so."""
    try:
        curve: list[dict[str, float]] = ask(run.plan, run.hosts, "shrink_curve", adapter, stop=run.stop)
    except RayError as error:
        log.warning("the winner could not be measured at fewer parameters", exc_info=True)
        run.observer.warned(f"the winner could not be measured at fewer parameters: {str(error).splitlines()[-1]}")
        return []
    return curve
