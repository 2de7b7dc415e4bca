"""The report: the seed report's sections, order and tables, then what they cannot say."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import findings, ranking, winner
from analysis.rows import ResultRow


@dataclass(frozen=True, slots=True)
class ReportHeader:
    """What the rows do not know.

    Args:
        generated: Date and time, as printed.
        dataset_size: Training examples.
        epochs: Passes over them.
        engine: How the trials were trained.
        resource_events: What memory did not allow.
    """

    generated: str
    dataset_size: int | None = None
    epochs: float | None = None
    engine: str | None = None
    resource_events: Sequence[str] = ()


def render(rows: Sequence[ResultRow], header: ReportHeader) -> str:
    """Return the whole report as Markdown."""
    sections = [
        *_overview(rows, header),
        *_summary(rows),
        *_best(rows),
        *_rankings(rows),
        *_details(rows),
        *findings.key_findings(rows),
        *winner.section(rows),
        *_trials(rows, header),
    ]
    return "\n".join(sections).rstrip("\n") + "\n"


def _overview(rows: Sequence[ResultRow], header: ReportHeader) -> list[str]:
    strategies = ", ".join(dict.fromkeys(row.strategy for row in rows))
    size = "unknown" if header.dataset_size is None else f"{header.dataset_size} examples"
    epochs = "unknown" if header.epochs is None else f"{header.epochs:g}"
    return [
        "# Adaptive LoRA: Experimental Results Analysis", "", f"**Generated:** {header.generated}", "",
        "## Overview", "", f"- **Total Experiments:** {len(rows)}", f"- **Strategies Tested:** {strategies}",
        f"- **Dataset Size:** {size}", f"- **Training Epochs:** {epochs}", "",
    ]  # fmt: skip


def _summary(rows: Sequence[ResultRow]) -> list[str]:
    lines = ["## Summary Statistics", "", "### Performance Metrics by Strategy", ""]
    lines += [ranking.summary(rows).round(4).to_string() if rows else "No trials.", ""]
    if any(row.status == "stopped" for row in rows):
        lines += ["Losses of trials that were stopped early are left out: they are not comparable with full ones.", ""]
    return lines


def _best(rows: Sequence[ResultRow]) -> list[str]:
    lines = ["## Best Performers", ""]
    best, efficient = ranking.best_run(rows), ranking.most_efficient(rows)
    lines += ["### Lowest Evaluation Loss"]
    if best is None:
        lines += ["- No trial finished with a loss.", ""]
    else:
        lines += [
            f"- **Strategy:** {best.strategy}", f"- **Loss:** {best.final_eval_loss:.4f}",
            f"- **Perplexity:** {_number(best.final_perplexity, '.2f')}",
            f"- **Parameters:** {_number(best.trainable_parameters, ',')}", "",
        ]  # fmt: skip
    lines += ["### Most Parameter Efficient"]
    if efficient is None:
        return [*lines, "- No trial finished with a loss and a known efficiency.", ""]
    return [
        *lines, f"- **Strategy:** {efficient.strategy}", f"- **Efficiency:** {efficient.parameter_efficiency:.1%}",
        f"- **Loss:** {efficient.final_eval_loss:.4f}",
        f"- **Parameters:** {_number(efficient.trainable_parameters, ',')}", "",
    ]  # fmt: skip


def _rankings(rows: Sequence[ResultRow]) -> list[str]:
    lines = ["## Strategy Rankings", ""]
    for metric in (name for name in ranking.METRICS if name != "trainable_parameters"):
        lines.append(f"### {findings.title(metric)}")
        for place, (strategy, mean) in enumerate(ranking.ranked_means(rows, metric), 1):
            lines.append(f"{place}. **{findings.title(strategy)}**: {mean:.4f}")
        lines.append("")
    return lines


def _details(rows: Sequence[ResultRow]) -> list[str]:
    table = ranking.frame(rows)
    columns = [name for name in table if name != "trainable_parameters"]
    if table["trainable_parameters"].notna().all():
        table["trainable_parameters"] = table["trainable_parameters"].astype("int64")
    table["parameter_efficiency"] = [_number(value, ".1%") for value in table["parameter_efficiency"]]
    table["training_time_seconds"] = [_number(value, ".1f", "s") for value in table["training_time_seconds"]]
    columns.insert(4, "trainable_parameters")
    return ["## Detailed Results", "", table[columns].to_markdown(index=False), ""]


def _trials(rows: Sequence[ResultRow], header: ReportHeader) -> list[str]:
    counts = Counter(row.status for row in rows)
    lines = ["## Trials", "", *(f"- **{status}:** {count}" for status, count in sorted(counts.items()))]
    lines += [f"- **Engine:** {header.engine}"] if header.engine else []
    lines += [*(f"- **Resource event:** {event}" for event in header.resource_events), ""]
    bad = [row for row in rows if row.status in {"diverged", "failed"}]
    if bad:
        lines += ["### Diverged and failed, with causes", ""]
        lines += [f"- `{row.experiment_name}` {row.status}: {row.error or 'cause unknown'}" for row in bad]
    return lines


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "nan" if value is None or pd.isna(value) else f"{value:{form}}{unit}"
