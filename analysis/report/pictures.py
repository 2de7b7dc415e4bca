"""The pictures of a report, each with its caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis.report import plots
from analysis.results.atomic_write import replacing_file
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.results.trial_config import Status
from analysis.stats import pareto
from analysis.stats.assessment import SearchAssessment

FOLDER = "figures"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a report.

    Args:
        name: Its file name without the suffix.
        title: Heading above it.
        words: What it shows: its caption and alternative text.
        figure: The drawing.
        table: Markdown table above it.
    """

    name: str
    title: str
    words: str
    figure: Figure
    table: str = ""

    @property
    def lines(self) -> list[str]:
        """Its section in Markdown."""
        table_lines = [self.table, ""] if self.table else []
        return [f"## {self.title}", "", *table_lines, f"![{self.words}]({FOLDER}/{self.name}.svg)", "", self.words, ""]


def drawn(assessment: SearchAssessment, info: RunInfo) -> list[Picture]:
    """Return the pictures for which there are the data."""
    searched = assessment.searched
    pictures = [
        _differences(assessment), _pareto(searched), _heatmaps(assessment.best_of_each), _learning_curves(searched),
        _learning_rates(searched), _shrinking(info),
    ]  # fmt: skip
    return [picture for picture in pictures if picture is not None]


def write(pictures: Sequence[Picture], folder: Path) -> None:
    """Write pictures where the report's Markdown looks for them, beside it."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for picture in pictures:
        with replacing_file(folder / FOLDER / f"{picture.name}.svg") as aside:
            plots.save(picture.figure, aside, "svg")


def _differences(assessment: SearchAssessment) -> Picture | None:
    judged = [verdict for verdict in assessment.verdicts if verdict.pairs.mean is not None]
    if not judged:
        return None
    summary = "; ".join(f"{verdict.strategy} {verdict.pairs.mean:+.4f}, {verdict.answer}" for verdict in judged)
    words = (
        f"Mean difference in test loss to plain LoRA (dot), its interval (line) and each seed (ticks); the grey band "
        f"does not matter: {summary}."
    )
    return Picture("differences", "Differences to plain LoRA", words, plots.differences(judged, assessment.margin))


def _pareto(rows: Sequence[ResultRow]) -> Picture | None:
    if not pareto.sizes_differ(rows):
        return None
    measured, members = pareto.measured(rows), pareto.front(rows)
    (fewest, most_loss), (most, least_loss) = pareto.point(members[0]), pareto.point(members[-1])
    words = (
        f"Evaluation loss over trainable parameters of {len(measured)} trials that were trained in full; the line is "
        f"the front, {len(members)} trials that no other beats in both, from {fewest:,} parameters at {most_loss:.4f} "
        f"to {most:,} at {least_loss:.4f}. Every trial is a single run, and its place may owe something "
        f"to chance; a search with its parameters as --budget would confirm it."
    )
    return Picture("pareto", "Pareto Front", words, plots.pareto_front(measured, members), pareto.table(members))


def _heatmaps(best_of_each: Mapping[str, ResultRow]) -> Picture | None:
    best_ranks = {name: row.ranks for name, row in best_of_each.items() if row.ranks}
    if not best_ranks:
        return None
    spans = "; ".join(f"{name} {min(ranks.values())} to {max(ranks.values())}" for name, ranks in best_ranks.items())
    words = f"Ranks by layer (columns) and matrix (rows) of each strategy's best finished trial: {spans}."
    return Picture("ranks", "Ranks by Layer and Matrix", words, plots.heatmaps(best_ranks))


def _learning_curves(rows: Sequence[ResultRow]) -> Picture | None:
    with_curves = [row for row in rows if any(point.get("eval_loss") is not None for point in row.history)]
    if not with_curves:
        return None
    words = (
        f"Evaluation loss over optimizer steps of {len(with_curves)} trials, a panel per strategy; bold is the best "
        f"one that was trained in full."
    )
    return Picture("learning_curves", "Learning Curves", words, plots.learning_curves(with_curves))


def _learning_rates(rows: Sequence[ResultRow]) -> Picture | None:
    rates: dict[str, list[tuple[float, float, bool]]] = {}
    for row in rows:
        rate = row.learning_rate
        if rate is not None and row.final_eval_loss is not None:
            point = (rate, row.final_eval_loss, row.status == Status.FINISHED)
            rates.setdefault(row.strategy, []).append(point)
    if not rates:
        return None
    best = {name: min((loss, rate) for rate, loss, finished in points if finished) for name, points in rates.items()
            if any(finished for _, _, finished in points)}  # fmt: skip
    summary = "; ".join(f"{name} best at {rate:.2g}" for name, (_, rate) in best.items())
    words = f"Last evaluation loss over learning rate, a colour for each strategy: {summary}."
    return Picture("learning_rates", "Learning-Rate Sensitivity", words, plots.learning_rates(rates))


def _shrinking(info: RunInfo) -> Picture | None:
    if not info.shrink:
        return None
    points = [(int(point["params"]), point["test_loss"]) for point in info.shrink]
    summary = "; ".join(f"{params:,} parameters {loss:.4f}" for params, loss in points)
    words = (
        f"Test loss of the trained winner at fewer parameters, the dashed line 1 % above the best perplexity: "
        f"{summary}."
    )
    return Picture("shrinking", "Shrink Curve", words, plots.shrink_curve(points))
