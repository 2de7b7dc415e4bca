"""From a plan to a finished run folder: check, train, harvest, report, and say where everything is."""

import datetime
import importlib.metadata
import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
from ray.exceptions import RayError

from analysis import ranking, verdicts
from analysis.card import card
from analysis.header import ReportHeader
from analysis.pictures import FOLDER
from analysis.publish import publish
from analysis.rows import ResultRow, write_rows
from strategies import STRATEGIES
from trainables.shrink import shrink_curve
from trainables.spec import Workload
from tuning import artifacts, preflight, summary, tracking
from tuning import search as tuner
from tuning.confirm import PHASE, confirmations, controls, most_confirmations
from tuning.fixed import FixedSearch
from tuning.metrics import Metrics
from tuning.plan import SearchPlan
from tuning.progress import Progress
from tuning.study import importances, mirror

OK, NO_USABLE_TRIAL, SOME_FAILED = 0, 1, 3
MLFLOW_PATIENCE_SECONDS = 60.0
VERSIONS = ("ray", "torch", "transformers", "peft", "optuna", "mlflow")


class Unusable(ValueError):
    """The plan cannot be carried out, for a reason that its author can mend. Nothing has been written."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a plan, saved beside it as ``facts.json``; the last three at the end."""

    base_params: int
    budget_params: int
    command: str
    versions: dict[str, str]
    engine: str
    resource_events: tuple[str, ...] = ()
    importance: dict[str, dict[str, float]] = field(default_factory=dict)
    shrink: Sequence[Mapping[str, float]] = ()

    def save(self, folder: Path) -> None:
        """Write the file."""
        (folder / "facts.json").write_text(json.dumps(asdict(self), indent=2) + "\n")


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
            click.echo(f"{name}: decided {STRATEGIES[name].decided()}")
            continue
        ranks = list(allocation.ranks.values())
        click.echo(f"{name}: {allocation.params:,} parameters, ranks {min(ranks)} to {max(ranks)}: {_compact(ranks)}")
    again = most_confirmations(plan)
    tokens = known.token_estimate(plan.trials + again)
    trials = f"{plan.trials} trials and {again} confirmation runs"
    click.echo(f"cost: at most {trials} x {known.workload.steps} steps, {tokens:,} tokens in all")
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
        with tuner.ray_for(named) as dashboard:
            click.echo(f"Ray dashboard, while this search runs: http://{dashboard}")
            if gpus := tuner.unused_gpus(named):
                click.echo(f"Ray has {gpus} GPU(s) and --gpus-per-trial is 0: training on CPU")
            return _run(*tuner.measured(named, known), dashboard)
    except ValueError as error:
        if not named.run_dir.exists():
            raise Unusable(str(error)) from error
        raise


def _run(plan: SearchPlan, known: preflight.Preflight, dashboard: str) -> int:
    plan = plan.model_copy(update={"corpus_sha256": known.corpus_sha256})
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    facts = Facts(known.shape.params, known.workload.budget.params, shlex.join(sys.argv), versions, plan.engine)
    saved = plan.model_dump(mode="json")
    plan.run_dir.mkdir(parents=True)
    (plan.run_dir / "plan.json").write_text(json.dumps(saved, indent=2) + "\n")
    facts.save(plan.run_dir)
    if known.workload.evidence:
        (plan.run_dir / "evidence.json").write_text(json.dumps(known.workload.evidence, indent=1) + "\n")
    sink = tracking.Sink(plan.run_dir, summary.tracking_uri(plan), summary.artifact_uri(plan))
    sink.put(
        "start", tracking.PARENT, name=plan.name, time_ms=tracking.now_ms(),
        params={key: value for key, value in saved.items() if value is not None},
        tags={"kind": "search", "status": "running"},
    )  # fmt: skip
    sink.put("dataset", tracking.PARENT, name=plan.dataset, digest=known.corpus_sha256)
    outcome = _train(plan, known, sink)
    _leave(plan, known.workload, facts, outcome)
    _finish_tracking(sink, plan, outcome)
    rows = outcome.rows
    summary.show(plan, rows, dashboard)
    if (searched := sum(row.phase == "search" for row in rows)) < plan.trials:
        click.echo(f"\nOnly {searched} of {plan.trials} trials: there are no more configurations that differ.")
    if not ranking.usable(rows):
        return NO_USABLE_TRIAL
    return SOME_FAILED if any(row.status == "failed" for row in rows) else OK


def _train(plan: SearchPlan, known: preflight.Preflight, sink: tracking.Sink) -> tuner.Outcome:
    """Search, and confirm what was found."""
    events, gauges = tracking.Tracking(sink), Metrics(plan.run_dir.name)
    with tuner.workers(plan, known.workload) as trainable:
        with Progress(plan.trials) as progress:
            outcome = tuner.run(plan, trainable, tuner.searcher(plan, known), plan.trials, (progress, events, gauges))
        for what, make in (("confirmation", confirmations), ("controls", controls)):
            again = make(plan, outcome.rows)
            if not again:
                break
            click.echo(f"\n{what.capitalize()}: {len(again)} runs from {plan.confirm_seeds} fresh seeds")
            events.open_group(PHASE)
            with Progress(len(again)) as progress:
                listeners = (progress, events, gauges)
                found = tuner.run(plan, trainable, FixedSearch(again), len(again), listeners, f"ray-{what}")
            outcome = outcome.followed_by(found)
            events.close_group(PHASE)
    return outcome


def _leave(plan: SearchPlan, workload: Workload, facts: Facts, outcome: tuner.Outcome) -> None:
    """Write what a run leaves: rows, facts, study, the winner's adapter and card, the report."""
    rows, best = outcome.rows, verdicts.recommended(outcome.rows, plan.margin)
    write_rows(rows, plan.run_dir / "rows.jsonl")
    write_rows(rows, plan.run_dir / "rows.csv")
    facts = replace(facts, resource_events=outcome.resource_events)
    if outcome.study is not None:
        mirror(outcome.study, str(plan.run_dir / "optuna.journal"), plan.run_dir.name)
        facts = replace(facts, importance=importances(outcome.study))
    artifacts.write(plan.run_dir, rows)
    adapter = plan.run_dir / "best_adapter"
    if best is not None and best.trial_id in outcome.adapters:
        shutil.copytree(outcome.adapters[best.trial_id], adapter)
        facts = replace(facts, shrink=_shrink_curve(plan, workload, best, adapter))
    facts.save(plan.run_dir)
    header = ReportHeader.of_run(plan.run_dir, f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}")
    if best is not None and adapter.is_dir():
        (adapter / "README.md").write_text(card(best, rows, header), encoding="utf-8")
    publish(rows, header, plan.run_dir / "report.md")


def _shrink_curve(plan: SearchPlan, workload: Workload, best: ResultRow, adapter: Path) -> list[dict[str, float]]:
    """Measure the winner at fewer parameters, where the trials ran; nothing if that fails, and say so."""
    try:
        found: list[dict[str, float]] = tuner.on_device(plan, shrink_curve, workload, best.ranks, best.alphas, adapter)
    except RayError as error:
        click.echo(f"the winner could not be measured at fewer parameters: {str(error).splitlines()[-1]}", err=True)
        return []
    return found


def _finish_tracking(sink: tracking.Sink, plan: SearchPlan, outcome: tuner.Outcome) -> None:
    """Log what is known only at the end: pictures, the best adapters, the parent's files."""
    rows = outcome.rows
    for row in rows:
        sink.put("artifact", row.trial_id, path=str(artifacts.trial_folder(plan.run_dir, row)))
    best = ranking.best_of_each_strategy(row for row in rows if row.phase == "search")
    for row in best.values():
        if row.trial_id in outcome.adapters:
            sink.put("artifact", row.trial_id, path=str(outcome.adapters[row.trial_id]), folder="adapter")
    for name in ("plan.json", "facts.json", "report.md", "report.html", "rows.jsonl", "rows.csv"):
        sink.put("artifact", tracking.PARENT, path=str(plan.run_dir / name))
    sink.put("artifact", tracking.PARENT, path=str(plan.run_dir / FOLDER), folder=FOLDER)
    status = "finished" if ranking.usable(rows) else "failed"
    sink.put("end", tracking.PARENT, status=tracking.END[status], tags={"status": status}, time_ms=tracking.now_ms())
    if not sink.close(MLFLOW_PATIENCE_SECONDS):
        click.echo(
            f"MLflow misses {tracking.remaining(plan.run_dir)} events; once it is back: "
            f"python -m tuning.tracking replay {summary.typed(plan.run_dir)}",
            err=True,
        )


def _compact(ranks: list[int]) -> str:
    return " ".join(map(str, ranks)) if len(ranks) <= 64 else " ".join(map(str, ranks[:32])) + " …"
