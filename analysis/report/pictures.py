"""Which pictures a report has, what they show in words, and where they belong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis.report import plots
from analysis.results.header import ReportHeader
from analysis.results.rows import ResultRow
from analysis.stats import pareto, ranking, verdicts

FOLDER = "figures"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a report.

    Args:
        name: Its file, without the ending.
        title: Heading above it.
        words: What it shows, for whoever cannot see it and as its caption.
        figure: The drawing.
        table: What stands above it, in Markdown.
    """

    name: str
    title: str
    words: str
    figure: Figure
    table: str = ""

    @property
    def lines(self) -> list[str]:
        """Its section in Markdown."""
        above = [self.table, ""] if self.table else []
        return [f"## {self.title}", "", *above, f"![{self.words}]({FOLDER}/{self.name}.svg)", "", self.words, ""]


def drawn(rows: Sequence[ResultRow], header: ReportHeader) -> list[Picture]:
    """Return the pictures that rows and header have the facts for."""
    searched = [row for row in rows if row.phase == "search"]
    found = [
        _differences(rows, header.margin), _pareto(searched), _heatmaps(searched), _learning_curves(searched),
        _learning_rates(searched), _shrinking(header),
    ]  # fmt: skip
    return [picture for picture in found if picture is not None]


def write(pictures: Sequence[Picture], folder: Path) -> None:
    """Write pictures where the report's Markdown looks for them, beside it."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for picture in pictures:
        plots.save(picture.figure, folder / FOLDER / f"{picture.name}.svg")


def _differences(rows: Sequence[ResultRow], margin: float) -> Picture | None:
    judged = [item for item in verdicts.verdicts(rows, margin) if item.pairs.mean is not None]
    if not judged:
        return None
    said = "; ".join(f"{item.strategy} {item.pairs.mean:+.4f}, {item.answer}" for item in judged)
    words = (
        f"Mean difference in test loss to plain LoRA (dot), its interval (line) and each seed (ticks); the grey band "
        f"does not matter: {said}."
    )
    return Picture("differences", "Differences to plain LoRA", words, plots.differences(judged, margin))


def _pareto(rows: Sequence[ResultRow]) -> Picture | None:
    if not pareto.sizes_differ(rows):
        return None
    done, members = pareto.measured(rows), pareto.front(rows)
    (fewest, most_loss), (most, least_loss) = pareto.point(members[0]), pareto.point(members[-1])
    words = (
        f"Evaluation loss over trainable parameters of {len(done)} trials that were trained in full; the line is the "
        f"front, {len(members)} trials that no other beats in both, from {fewest:,} parameters at {most_loss:.4f} to "
        f"{most:,} at {least_loss:.4f}. Every trial is a single run, and its place may owe something "
        f"to chance; a search with its parameters as --budget would confirm it."
    )
    return Picture("pareto", "Pareto Front", words, plots.pareto_front(done, members), pareto.table(members))


def _heatmaps(rows: Sequence[ResultRow]) -> Picture | None:
    best = {name: row.ranks for name, row in ranking.best_of_each_strategy(rows).items() if row.ranks}
    if not best:
        return None
    spans = "; ".join(f"{name} {min(ranks.values())} to {max(ranks.values())}" for name, ranks in best.items())
    words = f"Ranks by layer (columns) and matrix (rows) of each strategy's best finished trial: {spans}."
    return Picture("ranks", "Ranks by Layer and Matrix", words, plots.heatmaps(best))


def _learning_curves(rows: Sequence[ResultRow]) -> Picture | None:
    told = [row for row in rows if any(point.get("eval_loss") is not None for point in row.history)]
    if not told:
        return None
    words = (
        f"Evaluation loss over optimizer steps of {len(told)} trials, a panel per strategy; bold is the best one that "
        f"was trained in full."
    )
    return Picture("learning_curves", "Learning Curves", words, plots.learning_curves(told))


def _learning_rates(rows: Sequence[ResultRow]) -> Picture | None:
    rates: dict[str, list[tuple[float, float, bool]]] = {}
    for row in rows:
        rate = (row.config.get(row.strategy) or {}).get("learning_rate")
        if rate is not None and row.final_eval_loss is not None:
            point = (float(rate), row.final_eval_loss, row.status == "finished")
            rates.setdefault(row.strategy, []).append(point)
    if not rates:
        return None
    best = {name: min((loss, rate) for rate, loss, done in points if done) for name, points in rates.items()
            if any(done for _, _, done in points)}  # fmt: skip
    said = "; ".join(f"{name} best at {rate:.2g}" for name, (_, rate) in best.items())
    words = f"Last evaluation loss over learning rate, a colour for each strategy: {said}."
    return Picture("learning_rates", "Learning-Rate Sensitivity", words, plots.learning_rates(rates))


def _shrinking(header: ReportHeader) -> Picture | None:
    if not header.shrink:
        return None
    points = [(int(point["params"]), point["test_loss"]) for point in header.shrink]
    said = "; ".join(f"{params:,} parameters {loss:.4f}" for params, loss in points)
    words = (
        f"Test loss of the trained winner at fewer parameters, the dashed line 1 % above the best perplexity: {said}."
    )
    return Picture("shrinking", "Shrink Curve", words, plots.shrink_curve(points))
