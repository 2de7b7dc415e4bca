"""Key Findings: the seed report's three findings, as far as the rows support them."""

from collections.abc import Sequence

from analysis.results.markup import inline
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Status
from analysis.stats import ranking
from analysis.stats.assessment import SearchAssessment
from analysis.stats.verdicts import PLAIN


def title(name: str) -> str:
    """Return a name as the report's headings show it."""
    return name.replace("_", " ").title()


def key_findings(assessment: SearchAssessment) -> list[str]:
    """Return the section; a trial that diverged, failed or was stopped wins nothing."""
    rows = assessment.searched
    lines = ["## Key Findings", "", f"1. **Best Performance:** {_best_performance(assessment.best_trial, rows)}"]
    lines += [f"2. **Best Efficiency:** {_best_efficiency(assessment.most_efficient)}"]
    answers = "; ".join(f"{inline(title(verdict.strategy))}: {verdict.reads}" for verdict in assessment.verdicts)
    comparison = f"{answers} (from confirmation runs, see Verdict)" if answers else _adaptive(rows)
    lines += [f"3. **Adaptive vs Baseline:** {comparison}", ""]
    unusable_rows = [row for row in rows if row.status in {Status.DIVERGED, Status.FAILED} or _lacks_loss(row)]
    if unusable_rows:
        names = ", ".join(f"{inline(row.experiment_name)} ({row.status})" for row in unusable_rows)
        lines += [f"Without a usable loss, and so without a part in any of these: {names}.", ""]
    return lines


def _lacks_loss(row: ResultRow) -> bool:
    return row.status == Status.FINISHED and row.final_eval_loss is None


def _best_performance(best: ResultRow | None, rows: Sequence[ResultRow]) -> str:
    if best is None:
        return "no trial finished with a loss, so none is best"
    best_strategy, (mean, runs) = next(iter(ranking.mean_losses(rows).items()))
    return (
        f"the best single run is {inline(best.experiment_name)} ({inline(title(best.strategy))}, evaluation loss "
        f"{best.final_eval_loss:.4f}); the best mean is that of {inline(title(best_strategy))} "
        f"({mean:.4f} over {_runs(runs)})"
    )


def _best_efficiency(row: ResultRow | None) -> str:
    if row is None:
        return "no trial finished with a loss, so none is efficient"
    return (
        f"{inline(title(row.strategy))} trained the smallest share of parameters of all finished runs "
        f"({row.parameter_efficiency:.1%}, {inline(row.experiment_name)}, evaluation loss {row.final_eval_loss:.4f})"
    )


def _adaptive(rows: Sequence[ResultRow]) -> str:
    usable = ranking.usable(rows)
    plain = [row for row in usable if row.strategy == PLAIN]
    adaptive = [row for row in usable if row.strategy != PLAIN]
    if not plain or not adaptive:
        missing_kind = "adaptive" if plain else "baseline"
        return f"no {missing_kind} run finished with a loss, so there is nothing to compare"
    if _mean(plain) == 0:
        return "baseline's mean evaluation loss is 0, so there is nothing to compare"
    difference = _mean(adaptive) / _mean(plain) - 1
    counts = f"{_runs(len(adaptive))} against {_runs(len(plain))}"
    return f"mean evaluation loss of adaptive runs is {_signed(difference)} baseline's ({counts}); {_caveat(usable)}"


def _caveat(usable: Sequence[ResultRow]) -> str:
    means = ranking.mean_losses(usable)
    singles = [inline(title(name)) for name, (_, count) in means.items() if count == 1]
    if singles:
        return f"nothing can be concluded: {', '.join(singles)} finished one run only, and runs differ by chance"
    configs = {(row.strategy, str(sorted(row.config.items()))) for row in usable}
    if len(configs) > len(means):
        return "nothing can be concluded: the runs of a strategy differ in their hyperparameters, not in seeds alone"
    sizes = {row.trainable_parameters for row in usable}
    if len(sizes) > 1:
        return "nothing can be concluded: the runs differ in their budgets"
    return "no interval was computed, so this is a description and no verdict"


def _signed(difference: float) -> str:
    """Return a relative difference in words, with at least two significant digits and never a zero with a sign."""
    share = abs(difference)
    if share < 5e-6:
        return "no different, to five digits, from"
    digits = 1 if share >= 0.01 else 3
    return f"{share:.{digits}%} {'above' if difference > 0 else 'below'}"


def _mean(rows: Sequence[ResultRow]) -> float:
    losses = [row.final_eval_loss for row in rows if row.final_eval_loss is not None]
    return sum(losses) / len(losses)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
