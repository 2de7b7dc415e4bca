"""The last lines of a search: what is best, and where everything is."""

from collections.abc import Sequence
from pathlib import Path

import click

from analysis import ranking, verdicts
from analysis.rows import ResultRow
from tuning import tracking
from tuning.plan import SearchPlan


def show(plan: SearchPlan, rows: Sequence[ResultRow], dashboard: str) -> None:
    """Print the best trial of every strategy and the commands that open each view."""
    click.echo("\nBest finished trial of each strategy (evaluation loss):")
    searched = [row for row in rows if row.phase == "search"]
    best = ranking.best_of_each_strategy(searched)
    for strategy in dict.fromkeys(row.strategy for row in searched):
        row = best.get(strategy)
        found = f"{row.final_eval_loss:.4f}  {row.trainable_parameters:,} parameters" if row else "none finished"
        click.echo(f"  {strategy:18} {found}")
    if judged := verdicts.verdicts(rows, plan.margin):
        click.echo("\nVerdict on each strategy against plain LoRA (test loss, confirmation runs):")
        for line in verdicts.headline(judged):
            click.echo("  " + line.removeprefix("- ").replace("**", ""))
    click.echo(f"\nReport           {typed(plan.run_dir)}/report.md")
    for line in mlflow_lines(plan):
        click.echo(line)
    if not plan.official:
        click.echo(f"Optuna           optuna-dashboard {typed(plan.run_dir)}/optuna.journal")
    ended = "ended with this search's own Ray; one that stays: ray start --head, then --ray-address auto"
    click.echo(f"Ray dashboard    {f'http://{dashboard}' if plan.ray_address else ended}")


def mlflow_lines(plan: SearchPlan) -> list[str]:
    """Return how to see the search in MLflow: the command that starts it, unless a server runs, and the address."""
    at = tracking.page(plan.run_dir)
    if plan.mlflow_uri:
        served = plan.mlflow_uri.startswith("http") and at
        return [f"MLflow           {plan.mlflow_uri.rstrip('/')}{at if served else ''}"]
    lines = [f"MLflow           mlflow ui --backend-store-uri {tracking_uri(plan)}"]
    return [*lines, f"                 http://127.0.0.1:5000{at}"] if at else lines


def tracking_uri(plan: SearchPlan) -> str:
    """Return MLflow's address: the plan's server, or SQLite in the runs folder (absolute, whoever opens it)."""
    return plan.mlflow_uri or f"sqlite:///{Path(plan.runs_dir).resolve()}/mlflow.db"


def artifact_uri(plan: SearchPlan) -> str | None:
    """Return where a local MLflow keeps artifacts; a server decides itself."""
    return None if plan.mlflow_uri else (Path(plan.runs_dir).resolve() / "mlflow-artifacts").as_uri()


def typed(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
