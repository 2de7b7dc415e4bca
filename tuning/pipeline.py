"""From a plan to a finished run folder: check, train, harvest, report, and say where everything is."""

import datetime
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import optuna
from analysis.rows import ResultRow, write_rows

from analysis import plots, ranking, report
from tuning import harvest, preflight, tracking
from tuning import search as tuner
from tuning.plan import SearchPlan
from tuning.progress import Progress
from tuning.study import mirror

OK, NO_USABLE_TRIAL, SOME_FAILED = 0, 1, 3
MLFLOW_PATIENCE_SECONDS = 60.0


class Unusable(ValueError):
    """The plan cannot be carried out, for a reason that its author can mend. Nothing has been written."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a plan, saved beside it."""

    corpus_sha256: str
    base_params: int
    budget_params: int
    command: str


def checked(plan: SearchPlan) -> preflight.Preflight:
    """Run the preflight.

    Raises:
        Unusable: The model, the data or the budget cannot be used.
    """
    try:
        return preflight.check(plan)
    except ValueError as error:
        raise Unusable(str(error)) from error


def dry_run(plan: SearchPlan) -> int:
    """Print the resolved plan, the budget, each strategy's first allocation and the cost; train nothing."""
    known = checked(plan)
    click.echo(plan.model_dump_json(indent=2))
    click.echo(f"\nbudget: {known.workload.budget.params:,} of {known.shape.params:,} base parameters")
    for name, allocation in known.allocations.items():
        if allocation is None:
            click.echo(f"{name}: decided after the evidence is measured")
            continue
        ranks = list(allocation.ranks.values())
        click.echo(f"{name}: {allocation.params:,} parameters, ranks {min(ranks)} to {max(ranks)}: {_compact(ranks)}")
    trials = len(known.allocations) if plan.official else plan.num_samples
    click.echo(
        f"cost: at most {trials} trials x {known.workload.steps} steps, {known.token_estimate(trials):,} tokens in all"
    )
    return OK


def search(plan: SearchPlan) -> int:
    """Carry out a plan and return the exit code.

    Raises:
        Unusable: Something about the plan is wrong; nothing has been written.
    """
    named = plan.model_copy(update={"name": plan.name or f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"})
    if named.run_dir.exists():
        raise Unusable(f"--name {named.name}: {named.run_dir} exists; choose another name or remove it")
    known = checked(named)
    try:
        with tuner.ray_for(named):
            return _run(named, known)
    except ValueError as error:
        if not named.run_dir.exists():
            raise Unusable(str(error)) from error
        raise


def _run(plan: SearchPlan, known: preflight.Preflight) -> int:
    facts = Facts(known.corpus_sha256, known.shape.params, known.workload.budget.params, " ".join(sys.argv))
    run_dir = plan.run_dir
    run_dir.mkdir(parents=True)
    saved = plan.model_dump(mode="json") | {name: getattr(facts, name) for name in Facts.__slots__}
    (run_dir / "plan.json").write_text(json.dumps(saved, indent=2) + "\n")
    sink = _open_sink(plan)
    _start_parent(sink, plan, saved)
    trials = len(known.allocations) if plan.official else plan.num_samples
    results, study = tuner.run(plan, known, [Progress(trials), tracking.TrackingCallback(sink)])
    rows = harvest.rows_from(results)
    _write_report(plan, rows)
    _keep_best_adapter(run_dir, rows, results)
    if study is not None:
        mirror(study, str(run_dir / "optuna.journal"), run_dir.name)
    _finish_tracking(sink, plan, rows, results)
    _print_summary(plan, rows, study)
    usable = ranking.usable(rows)
    if not usable:
        return NO_USABLE_TRIAL
    return SOME_FAILED if any(row.status == "failed" for row in rows) else OK


def _open_sink(plan: SearchPlan) -> tracking.Sink:
    runs = Path(plan.runs_dir).resolve()
    if plan.mlflow_uri:
        return tracking.Sink(plan.run_dir, plan.mlflow_uri, None)
    return tracking.Sink(plan.run_dir, f"sqlite:///{runs}/mlflow.db", (runs / "mlflow-artifacts").as_uri())


def _start_parent(sink: tracking.Sink, plan: SearchPlan, saved: dict[str, Any]) -> None:
    params = {key: value for key, value in saved.items() if key not in {"command"} and value is not None}
    tags = {"kind": "search", "status": "running"}
    sink.put("start", tracking.PARENT, name=plan.name, params=params, tags=tags, time_ms=tracking.now_ms())
    sink.put("dataset", tracking.PARENT, name=plan.dataset, digest=saved["corpus_sha256"])


def _write_report(plan: SearchPlan, rows: list[ResultRow]) -> None:
    write_rows(rows, plan.run_dir / "rows.jsonl")
    write_rows(rows, plan.run_dir / "rows.csv")
    header = report.ReportHeader(
        generated=f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}", dataset_size=plan.train_examples, epochs=plan.epochs
    )
    (plan.run_dir / "report.md").write_text(report.render(rows, header), encoding="utf-8")


def _keep_best_adapter(run_dir: Path, rows: list[ResultRow], results: list[Any]) -> None:
    best = ranking.best_run(rows)
    adapter = best and harvest.checkpoint_of(results, best.trial_id)
    if adapter:
        shutil.copytree(adapter, run_dir / "best_adapter")


def _finish_tracking(sink: tracking.Sink, plan: SearchPlan, rows: list[ResultRow], results: list[Any]) -> None:
    """Log what is known only at the end: artifacts, statuses, the parent's files."""
    folder = plan.run_dir / "trials"
    best = {
        strategy: ranking.best_run([row for row in rows if row.strategy == strategy]) for strategy in plan.strategies
    }
    for row in rows:
        own = folder / row.trial_id
        own.mkdir(parents=True)
        if row.ranks is not None:
            (own / "allocation.json").write_text(json.dumps({"ranks": row.ranks, "alphas": row.alphas}, indent=1))
            plots.rank_heatmap(row.ranks, row.experiment_name, own / "ranks.png")
        sink.put("artifact", row.trial_id, path=str(own))
        adapter = harvest.checkpoint_of(results, row.trial_id) if row == best.get(row.strategy) else None
        if adapter:
            sink.put("artifact", row.trial_id, path=str(adapter), folder="adapter")
        tags = {"status": row.status} | ({"error": row.error} if row.error else {})
        sink.put("end", row.trial_id, status=tracking.END[row.status], tags=tags, time_ms=tracking.now_ms())
    for name in ("plan.json", "report.md", "rows.jsonl", "rows.csv"):
        sink.put("artifact", tracking.PARENT, path=str(plan.run_dir / name))
    status = "finished" if ranking.usable(rows) else "failed"
    sink.put("end", tracking.PARENT, status=tracking.END[status], tags={"status": status}, time_ms=tracking.now_ms())
    if not sink.close(MLFLOW_PATIENCE_SECONDS):
        click.echo(f"MLflow misses {tracking.remaining(plan.run_dir)} events; once it is back: "
                   f"python -m tuning.tracking replay {_shown(plan.run_dir)}", err=True)  # fmt: skip


def _print_summary(plan: SearchPlan, rows: list[ResultRow], study: optuna.Study | None) -> None:
    run_dir, runs = _shown(plan.run_dir), _shown(Path(plan.runs_dir).resolve())
    click.echo("\nBest finished trial of each strategy (eval loss):")
    for strategy in dict.fromkeys(row.strategy for row in rows):
        best = ranking.best_run([row for row in rows if row.strategy == strategy])
        found = f"{best.final_eval_loss:.4f}  ({best.trainable_parameters:,} parameters)" if best else "none finished"
        click.echo(f"  {strategy:18} {found}")
    click.echo(f"\nReport:           {run_dir}/report.md")
    store = plan.mlflow_uri or f"sqlite:///{runs}/mlflow.db"
    click.echo(
        f"MLflow:           mlflow ui --backend-store-uri {store}" if not plan.mlflow_uri else f"MLflow: {store}"
    )
    if study is not None:
        click.echo(f"Optuna:           optuna-dashboard {run_dir}/optuna.journal")
    click.echo("Ray dashboard:    while a search runs, http://127.0.0.1:8265")


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _compact(ranks: list[int]) -> str:
    return " ".join(map(str, ranks)) if len(ranks) <= 64 else " ".join(map(str, ranks[:32])) + " …"
