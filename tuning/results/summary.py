"""The last lines of a search: what is best, and where everything is."""

import importlib.util
import shlex
from pathlib import Path

from analysis.report.verdict_section import scope
from analysis.results.messages import one_line
from analysis.results.rank_patterns import vllm_flag
from analysis.results.rows import ResultRow
from analysis.stats.assessment import SearchAssessment
from analysis.stats.recommendation import recommend
from trainables.training.checkpoint import BEST, UNIFORM
from tuning.plan.search_plan import SearchPlan
from tuning.tracking import addresses, mlflow_client


def lines(
    plan: SearchPlan, assessment: SearchAssessment, dashboard: str, search_id: str, coverage: str | None
) -> list[str]:
    """Return the best trial of every strategy, the commands that open each view, and last what to use.

    Args:
        plan: The search.
        assessment: What its rows say.
        dashboard: Address of Ray's dashboard; empty without a Ray.
        search_id: Its id; empty if unknown.
        coverage: As ``RunInfo.coverage``.
    """
    best = assessment.best_of_each
    ranked = sorted(best, key=lambda name: best[name].final_eval_loss or 0.0)
    names = dict.fromkeys([*ranked, *(row.strategy for row in assessment.searched)])
    said = ["", "Best finished trial of each strategy (evaluation loss; a single run may be best by chance):"]
    said += [f"  {name:18} {_outcome(best.get(name))}" for name in names]
    if assessment.answer:
        said += ["", "Verdict on each strategy against plain LoRA (test loss, confirmation runs):"]
        said += ["  " + line.removeprefix("- ").replace("**", "") for line in assessment.answer]
        if assessment.sizes and (rank := assessment.sizes.sentences(assessment.margin)):
            said += [f"  What rank is worth here: {' '.join(rank)}"]
    said += ["", f"Report           {typed(plan.run_dir)}/report.html, report.md"]
    said += [*adapter_lines(plan, assessment), *mlflow_lines(plan, search_id)]
    if not plan.official:
        fetched = "" if importlib.util.find_spec("optuna_dashboard") else "pip install optuna-dashboard && "
        said.append(f"Optuna           {fetched}optuna-dashboard {typed(plan.run_dir)}/optuna.journal")
    ended = "ended with this search's own Ray; one that stays: ray start --head, then --ray-address auto"
    if dashboard or plan.ray_address is None:  # a search that is complete has no Ray to ask where it is
        said.append(f"Ray dashboard    {f'http://{dashboard}' if plan.ray_address else ended}")
    return [*said, "", *map(one_line, [*recommend(assessment).sentences, *filter(None, [scope(coverage)])])]


def _outcome(row: ResultRow | None) -> str:
    return f"{row.final_eval_loss:.4f}{_parameters(row)}" if row else "none finished"


def _parameters(row: ResultRow) -> str:
    return "" if row.trainable_parameters is None else f"  {row.trainable_parameters:,} parameters"


def adapter_lines(plan: SearchPlan, assessment: SearchAssessment) -> list[str]:
    """Return where the winner's adapter is, and which form of it is for what."""
    chosen, lines = assessment.recommended, []
    if chosen is not None and (plan.run_dir / BEST).is_dir():
        lines += [f"Adapter          {typed(plan.run_dir)}/{BEST} ({chosen.strategy}: {chosen.experiment_name})"]
    if chosen is not None and (plan.run_dir / UNIFORM).is_dir():
        flag = vllm_flag(max((chosen.ranks or {}).values(), default=0))
        form = f"one rank, one scale{f'; vLLM needs {flag}' if flag else ''}"
        lines += [f"                 {typed(plan.run_dir)}/{UNIFORM} (the same for vLLM and SGLang: {form})"]
    return lines


def mlflow_lines(plan: SearchPlan, search_id: str) -> list[str]:
    """Return how to see the search in MLflow: the command that starts it, unless a server runs, and the address."""
    at, server = mlflow_client.page(search_id), server_uri(plan)
    if server:
        return [f"MLflow           {server.rstrip('/')}{at if server.startswith('http') and at else ''}"]
    lines = [f"MLflow           mlflow ui --backend-store-uri {tracking_uri(plan)}"]
    return [*lines, f"                 http://127.0.0.1:5000{at}"] if at else lines


def server_uri(plan: SearchPlan) -> str | None:
    """Return the MLflow server's address: the plan's, or that of the environment, as MLflow's own commands do."""
    return addresses.server_uri(plan.mlflow_uri)


def tracking_uri(plan: SearchPlan) -> str:
    """Return MLflow's address: the server, or SQLite in the runs folder (absolute, whoever opens it)."""
    return server_uri(plan) or addresses.local_uri(Path(plan.runs_dir))


def artifact_uri(plan: SearchPlan) -> str | None:
    """Return where a local MLflow keeps artifacts; a server decides itself."""
    return None if server_uri(plan) else addresses.local_artifacts(Path(plan.runs_dir))


def typed(path: Path) -> str:
    """Return a path as short as it can be typed into a shell from here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here)) if path.is_relative_to(here) else str(path))
