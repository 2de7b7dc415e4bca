"""The report: the answer, the verdict, the seed report's sections, order and tables, then further sections."""

from collections.abc import Sequence

import pandas as pd

from analysis.report import answer, bill, closing, findings, samples, trials, verdict_section, winner
from analysis.report.pictures import Picture
from analysis.results.markup import inline
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.results.trial_config import Status
from analysis.stats import ranking
from analysis.stats.assessment import SearchAssessment

OF_SINGLE_RUNS = (
    "These are the best single runs of the search, and each may be best by chance: what to use is said under Answer."
)
OF_MEANS = (
    "These are means over a strategy's trials of the search, whose hyperparameters differ: they describe the search "
    "and compare nothing."
)
LAST_OF_SEED = "Key Findings"
"""Heading of the last of the seed report's sections; a page of a run folds what follows."""


def render(assessment: SearchAssessment, info: RunInfo, pictures: Sequence[Picture] = ()) -> str:
    """Return the whole report of a run as Markdown: answer, verdict, the seed's sections, and the rest.

    Args:
        assessment: What the rows of the search say.
        info: What the report shows of the run and its rows do not have.
        pictures: As ``pictures.drawn`` gives them.
    """
    others = {picture.name: picture for picture in pictures}
    differences = others.pop("differences", None)
    sections = [
        *_title(info),
        *answer.section(assessment, info, differences.image if differences else []),
        *verdict_section.section(assessment, info.looks, info.coverage),
        *_seed_sections(assessment, info, of_run=True),
        *_rest(assessment, info, others),
    ]
    return "\n".join(sections).rstrip("\n") + "\n"


def render_rows(assessment: SearchAssessment, info: RunInfo, pictures: Sequence[Picture] = ()) -> str:
    """Return a report of any rows as Markdown: to its Key Findings it is the seed report's format, to the byte.

    Args:
        assessment: What the rows say.
        info: What is known besides.
        pictures: As ``pictures.drawn`` gives them.
    """
    others = {picture.name: picture for picture in pictures}
    differences = others.pop("differences", None)
    sections = [
        *_title(info),
        *_seed_sections(assessment, info, of_run=False),
        *verdict_section.section(assessment, info.looks, info.coverage),
        *(differences.lines if differences else []),
        *_rest(assessment, info, others),
    ]
    return "\n".join(sections).rstrip("\n") + "\n"


def _seed_sections(assessment: SearchAssessment, info: RunInfo, of_run: bool) -> list[str]:
    """Return the seed report's sections; they are about the search, not about confirmation runs.

    Args:
        assessment: What the rows say.
        info: What is known besides.
        of_run: Whether to say of single runs that they are, which the seed report does not.
    """
    rows = assessment.searched
    return [
        *_overview(rows, info),
        *_summary(rows),
        *_best(assessment, [OF_SINGLE_RUNS, ""] if of_run else []),
        *_rankings(rows, [OF_MEANS, ""] if of_run else []),
        *_details(rows),
        *findings.key_findings(assessment),
    ]


def _rest(assessment: SearchAssessment, info: RunInfo, others: dict[str, Picture]) -> list[str]:
    lines = {name: picture.lines for name, picture in others.items()}
    return [
        *winner.section(assessment),
        *samples.section(info),
        *trials.section(assessment.searched),
        *closing.cost(assessment.rows, info),
        *bill.section(assessment, info.base_params),
        *lines.pop("pareto", []),
        *closing.parameter_importance(info),
        *(line for name in ("ranks", "learning_curves", "learning_rates") for line in lines.pop(name, [])),
        *closing.shrinking(info),
        *lines.pop("shrinking", []),
        *(line for picture_lines in lines.values() for line in picture_lines),
        *closing.evidence(info),
        *closing.went_wrong(assessment.rows),
        *closing.reproduce(info),
    ]


def _title(info: RunInfo) -> list[str]:
    return ["# Adaptive LoRA: Experimental Results Analysis", "", f"**Generated:** {inline(info.generated)}", ""]


def _overview(rows: Sequence[ResultRow], info: RunInfo) -> list[str]:
    strategies = ", ".join(inline(name) for name in dict.fromkeys(row.strategy for row in rows))
    size = "unknown" if info.train_examples is None else f"{info.train_examples} examples"
    epochs = "unknown" if info.epochs is None else f"{info.epochs:g}"
    return [
        "## Overview", "", f"- **Total Experiments:** {len(rows)}", f"- **Strategies Tested:** {strategies}",
        f"- **Dataset Size:** {size}", f"- **Training Epochs:** {epochs}", "",
    ]  # fmt: skip


def _summary(rows: Sequence[ResultRow]) -> list[str]:
    lines = ["## Summary Statistics", "", "### Performance Metrics by Strategy", ""]
    lines += [ranking.summary(rows).round(4).rename(index=inline).to_string() if rows else "No trials.", ""]
    if any(row.status == Status.STOPPED for row in rows):
        lines += [
            "Of trials that were stopped early everything is left out but the count: what they had reached does "
            "not compare with full ones.",
            "",
        ]
    return lines


def _best(assessment: SearchAssessment, note: Sequence[str]) -> list[str]:
    lines = ["## Best Performers", "", *note]
    best, efficient = assessment.best_trial, assessment.most_efficient
    lines += ["### Lowest Evaluation Loss"]
    if best is None:
        lines += ["- No trial finished with a loss.", ""]
    else:
        lines += [
            f"- **Strategy:** {inline(best.strategy)}", f"- **Loss:** {best.final_eval_loss:.4f}",
            f"- **Perplexity:** {_number(best.final_perplexity, '.2f')}",
            f"- **Parameters:** {_number(best.trainable_parameters, ',')}", "",
        ]  # fmt: skip
    lines += ["### Most Parameter Efficient"]
    if efficient is None:
        return [*lines, "- No trial finished with a loss and a known efficiency.", ""]
    return [
        *lines, f"- **Strategy:** {inline(efficient.strategy)}",
        f"- **Efficiency:** {efficient.parameter_efficiency:.1%}",
        f"- **Loss:** {efficient.final_eval_loss:.4f}",
        f"- **Parameters:** {_number(efficient.trainable_parameters, ',')}", "",
    ]  # fmt: skip


def _rankings(rows: Sequence[ResultRow], note: Sequence[str]) -> list[str]:
    lines = ["## Strategy Rankings", "", *note]
    for metric in (name for name in ranking.METRICS if name != "trainable_parameters"):
        lines.append(f"### {findings.title(metric)}")
        for position, (strategy, mean) in enumerate(ranking.ranked_means(rows, metric), 1):
            lines.append(f"{position}. **{inline(findings.title(strategy))}**: {mean:.4f}")
        lines.append("")
    return lines


def _details(rows: Sequence[ResultRow]) -> list[str]:
    table = ranking.frame(rows)
    for name in ("experiment_name", "strategy"):
        table[name] = [str(inline(value)) for value in table[name]]
    columns = [name for name in table if name != "trainable_parameters"]
    if table["trainable_parameters"].notna().all():
        table["trainable_parameters"] = table["trainable_parameters"].astype("int64")
    table["parameter_efficiency"] = [_number(value, ".1%") for value in table["parameter_efficiency"]]
    table["training_time_seconds"] = [_number(value, ".1f", "s") for value in table["training_time_seconds"]]
    columns.insert(4, "trainable_parameters")
    return ["## Detailed Results", "", table[columns].to_markdown(index=False), ""]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "nan" if value is None or pd.isna(value) else f"{value:{form}}{unit}"
