"""The pictures of a report, each with its caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis.report import drawing, plots
from analysis.results.atomic_write import replace_text
from analysis.results.markup import inline
from analysis.results.rows import ResultRow
from analysis.results.run_info import FIGURES, RunInfo
from analysis.results.trial_config import Status
from analysis.stats import pareto
from analysis.stats.assessment import SearchAssessment

NAMES = ("differences", "pareto", "ranks", "learning_curves", "learning_rates", "shrinking")
"""All pictures that there are; a page shows no others."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a report.

    Args:
        name: Its file name without the suffix.
        title: Heading above it.
        words: What it shows, with the numbers: its alternative text.
        caption: How to read it.
        figure: The drawing.
        table: Markdown table above it.
    """

    name: str
    title: str
    words: str
    caption: str
    figure: Figure
    table: str = ""

    @property
    def lines(self) -> list[str]:
        """Its section in Markdown."""
        table_lines = [self.table, ""] if self.table else []
        return [f"## {self.title}", "", *table_lines, *self.image]

    @property
    def image(self) -> list[str]:
        """It and its caption in Markdown."""
        return [f"![{inline(self.words)}]({FIGURES}/{self.name}.svg)", "", inline(self.caption), ""]


def drawn(assessment: SearchAssessment, info: RunInfo) -> list[Picture]:
    """Return the pictures for which there are the data."""
    searched = assessment.searched
    pictures = [
        _differences(assessment), _pareto(searched), _heatmaps(assessment.best_of_each), _learning_curves(searched),
        _learning_rates(searched), _shrinking(info),
    ]  # fmt: skip
    return [picture for picture in pictures if picture is not None]


def write(pictures: Sequence[Picture], folder: Path) -> dict[str, str]:
    """Write pictures where the report's Markdown looks for them, beside it, and return name -> SVG.

    Raises:
        ValueError: The folder for them is a link.
    """
    if (folder / FIGURES).is_symlink():
        raise ValueError(f"{folder / FIGURES}: a link; put there what it leads to, or give the report another folder")
    (folder / FIGURES).mkdir(exist_ok=True)
    drawings = {picture.name: drawing.svg(picture.figure, picture.name) for picture in pictures}
    for name, text in drawings.items():
        replace_text(folder / FIGURES / f"{name}.svg", text)
    return drawings


def _differences(assessment: SearchAssessment) -> Picture | None:
    judged = [verdict for verdict in assessment.verdicts if verdict.pairs.mean is not None]
    if not judged:
        return None
    summary = "; ".join(f"{verdict.strategy} {verdict.pairs.mean:+.4f}, {verdict.reads}" for verdict in judged)
    caption = "Dot and number: mean of the seeds. Line: its interval. Ticks: single seeds. Grey: too little to matter."
    words = f"Mean difference in test loss to plain LoRA, in nats per token: {summary}."
    figure = plots.differences(judged, assessment.margin)
    return Picture("differences", "Differences to plain LoRA", words, caption, figure)


def _pareto(rows: Sequence[ResultRow]) -> Picture | None:
    if not pareto.sizes_differ(rows):
        return None
    measured, members = pareto.measured(rows), pareto.front(rows)
    (fewest, most_loss), (most, least_loss) = pareto.point(members[0]), pareto.point(members[-1])
    words = (
        f"Evaluation loss over trainable parameters of {len(measured)} trials that were trained in full; the front is "
        f"{len(members)} trials, from {fewest:,} parameters at {most_loss:.4f} to {most:,} at {least_loss:.4f}."
    )
    caption = (
        "The line joins the trials that no other beats in both. Every trial is a single run, and its place may owe "
        "something to chance; a search with its parameters as --budget would confirm it."
    )
    figure = plots.pareto_front(measured, members)
    return Picture("pareto", "Pareto Front", words, caption, figure, pareto.table(members))


def _heatmaps(best_of_each: Mapping[str, ResultRow]) -> Picture | None:
    best_ranks = {name: row.ranks for name, row in best_of_each.items() if row.ranks}
    if not best_ranks:
        return None
    spans = "; ".join(f"{name} {min(ranks.values())} to {max(ranks.values())}" for name, ranks in best_ranks.items())
    words = f"Ranks by layer and matrix of each strategy's best finished trial: {spans}."
    caption = (
        "Of each strategy's best single run of the search. Every rank that occurs has a colour of its own, the same in "
        "all panels."
    )
    return Picture("ranks", "Ranks by Layer and Matrix", words, caption, plots.heatmaps(best_ranks))


def _learning_curves(rows: Sequence[ResultRow]) -> Picture | None:
    with_curves = [row for row in rows if any(point.get("eval_loss") is not None for point in row.history)]
    if not with_curves:
        return None
    words = f"Evaluation loss over optimizer steps of {len(with_curves)} trials, a panel per strategy."
    caption = "Bold is the best single run of those that were trained in full; lines that end early were stopped."
    if plots.upper_edge(with_curves) is not None:
        caption += " Triangles at the upper edge: trials that ended above it."
    return Picture("learning_curves", "Learning Curves", words, caption, plots.learning_curves(with_curves))


def _learning_rates(rows: Sequence[ResultRow]) -> Picture | None:
    full: dict[str, list[tuple[float, float]]] = {}
    stopped: dict[str, list[float]] = {}
    for row in rows:
        if row.learning_rate is None:
            continue
        if row.status == Status.FINISHED and row.final_eval_loss is not None:
            full.setdefault(row.strategy, []).append((row.learning_rate, row.final_eval_loss))
        else:
            stopped.setdefault(row.strategy, []).append(row.learning_rate)
    if not full:
        return None
    best = {name: min((loss, rate) for rate, loss in points)[1] for name, points in full.items()}
    summary = "; ".join(f"{name} best at {rate:.2g}" for name, rate in best.items())
    words = f"Evaluation loss over learning rate of trials that were trained in full: {summary}."
    caption = (
        "Single runs, trained in full. Ticks below: rates of trials that ended early, whose losses do not compare."
    )
    return Picture("learning_rates", "Learning-Rate Sensitivity", words, caption, plots.learning_rates(full, stopped))


def _shrinking(info: RunInfo) -> Picture | None:
    if not info.shrink:
        return None
    points = [(int(point["params"]), point["test_loss"]) for point in info.shrink]
    summary = "; ".join(f"{params:,} parameters {loss:.4f}" for params, loss in points)
    words = f"Test loss of the trained winner at fewer parameters: {summary}."
    return Picture(
        "shrinking", "Shrink Curve", words, "Dashed: 1 % above the best perplexity.", plots.shrink_curve(points)
    )
