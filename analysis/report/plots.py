"""Pictures: every function draws one from rows and returns it. Colours are Okabe and Ito's; markers differ, too."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from analysis.report.winner import grid
from analysis.results.messages import one_line
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Status
from analysis.stats import pareto, ranking
from analysis.stats.verdicts import Verdict

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "font.size": 9, "legend.frameon": False, "svg.hashsalt": "figures",
    "text.parse_math": False,
}  # fmt: skip
WIDTH = 6.4
LONGEST_LABEL = 32


def series_style(number: int) -> tuple[str, str]:
    """Return (colour, marker) of the ``number``-th series; after seven, colours come again with other markers."""
    return COLOURS[number % 7], MARKERS[(number + number // 7) % 7]


def save(figure: Figure, path: Path, kind: str = "") -> None:
    """Write a picture; the same picture gives the same bytes.

    Args:
        figure: The picture.
        path: Its file.
        kind: ``svg`` or ``png``; by default as the file's name ends.
    """
    FigureCanvasAgg(figure)
    kind = kind or path.suffix.removeprefix(".")
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=120, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _label(text: str) -> str:
    """Return a name as a line that leaves room for the drawing."""
    line = one_line(text)
    return line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…"


def svg(figure: Figure, name: str) -> str:
    """Return a picture as SVG, the same for the same picture; its name keeps its marks apart from those of others."""
    FigureCanvasAgg(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, dpi=120, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@matplotlib.rc_context(STYLE)
def heatmaps(allocations: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw allocations beside each other, title -> site name -> rank: a row per matrix and a column per layer.

    All have one scale of colours.
    """
    grids = {title: grid(ranks) for title, ranks in allocations.items()}
    highest = max(1, *(rank for ranks in allocations.values() for rank in ranks.values()))
    layers, matrices = (max(len(rank_grid[axis]) for rank_grid in grids.values()) for axis in (0, 1))
    columns = 1 if len(grids) == 1 or layers > 12 else 2
    rows = -(-len(grids) // columns)
    names = max(len(_label(name)) for _, matrix_names, _ in grids.values() for name in matrix_names)
    size = (1.4 + columns * (0.4 + 0.07 * names + 0.34 * layers), rows * (1.0 + 0.32 * matrices))
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    image = None
    for panel, (title, layers_matrices_ranks) in zip(panels, grids.items(), strict=False):
        image = _heatmap(panel, title, *layers_matrices_ranks, highest)
    for panel in panels[len(grids) :]:
        panel.remove()
    if image is not None:
        figure.colorbar(image, ax=list(figure.axes), label="rank", ticks=MaxNLocator(integer=True, nbins=6))
    return figure


def _heatmap(
    axes: Any, title: str, layers: list[int], matrices: list[str], cells: list[list[int | None]], highest: int
) -> Any:
    values = np.array([[np.nan if rank is None else rank for rank in row] for row in cells], dtype=float).T
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=highest, aspect="auto")
    axes.grid(visible=False)
    step = 1 + len(layers) // 24
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_yticks(range(len(matrices)), [_label(name) for name in matrices])
    axes.set_xlabel("layer")
    axes.set_title(_label(title), fontsize=9)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value < 0.6 * highest else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7, in_layout=False)
    return image


@matplotlib.rc_context(STYLE)
def differences(judged: Sequence[Verdict], margin: float) -> Figure:
    """Draw the strategies' differences to plain LoRA, whose mean must be known, and the band that does not matter."""
    figure = Figure(figsize=(WIDTH, 1.1 + 0.42 * len(judged)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axes.axvline(0, color="black", linewidth=0.8)
    for position, verdict in enumerate(judged):
        values = verdict.pairs.differences
        axes.plot(values, [position] * len(values), "|", color="#777777", markersize=9)
        if verdict.pairs.interval is not None:
            axes.plot(verdict.pairs.interval, [position] * 2, color=COLOURS[0], linewidth=2)
        axes.plot([verdict.pairs.mean or 0.0], [position], "o", color=COLOURS[0])
    axes.set_yticks(
        range(len(judged)), [f"{_label(verdict.strategy)}\n{verdict.answer}" for verdict in judged], fontsize=8
    )
    axes.set_ylim(len(judged) - 0.5, -0.5)
    axes.set_xlabel("test loss minus plain LoRA's, nats per token (left is better)")
    return figure


@matplotlib.rc_context(STYLE)
def pareto_front(rows: Sequence[ResultRow], front: Sequence[ResultRow]) -> Figure:
    """Draw loss over parameters.

    Args:
        rows: Trials with known parameters and loss; hollow where they are not on the front.
        front: Trials on the front, from the fewest parameters; a step line joins them.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.step(*zip(*map(pareto.point, front), strict=True), where="post", color="#777777", linewidth=1.2, zorder=1)
    front_ids = {row.trial_id for row in front}
    for number, strategy in enumerate(dict.fromkeys(row.strategy for row in rows)):
        colour, marker = series_style(number)
        strategy_rows = [row for row in rows if row.strategy == strategy]
        faces = [colour if row.trial_id in front_ids else "none" for row in strategy_rows]
        params, losses = zip(*map(pareto.point, strategy_rows), strict=True)
        axes.scatter(params, losses, marker=marker, facecolors=faces, edgecolors=colour, s=30, zorder=2)
        axes.plot([], [], marker, color=colour, label=_label(strategy))
    axes.set_xscale("log")
    sizes = [pareto.point(row)[0] for row in rows]
    axes.set_xticks(_halvings(min(sizes), max(sizes)))
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("trainable parameters (filled: on the front)")
    axes.set_ylabel("evaluation loss")
    axes.legend()
    return figure


def _halvings(low: int, high: int) -> list[float]:
    """Return both and the halvings of ``high`` that are well apart from ``low``: budgets are usually halved."""
    count = math.floor(math.log2(high / (1.2 * low))) if high > 2.4 * low else 0
    return [low, *(high / 2**k for k in range(count, -1, -1))]


@matplotlib.rc_context(STYLE)
def learning_curves(rows: Sequence[ResultRow]) -> Figure:
    """Draw every trial's evaluation loss over its steps, a panel per strategy; the best finished one is bold."""
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    columns = min(2, len(strategies))
    height = 0.4 + 1.9 * -(-len(strategies) // columns)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(-(-len(strategies) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for number, (axes, strategy) in enumerate(zip(panels.flat, strategies, strict=False)):
        colour, marker = series_style(number)
        strategy_rows = [row for row in rows if row.strategy == strategy and row.history]
        finished = [row for row in strategy_rows if row.status == Status.FINISHED and row.final_eval_loss is not None]
        best = min(finished, key=lambda row: row.final_eval_loss or 0.0, default=None)
        for row in strategy_rows:
            points = [(point["step"], point["eval_loss"]) for point in row.history if point["eval_loss"] is not None]
            width, alpha = (2.0, 1.0) if row is best else (0.8, 0.5)
            axes.plot(
                *zip(*points, strict=True), marker=marker, markersize=3, linewidth=width, alpha=alpha, color=colour
            )
        axes.set_title(_label(strategy), fontsize=9)
    for axes in list(panels.flat)[len(strategies) :]:
        axes.remove()
    for axes in list(panels.flat)[: len(strategies)][-columns:]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("optimizer step", fontsize=9)
    figure.supylabel("evaluation loss", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def learning_rates(full: Mapping[str, Sequence[tuple[float, float]]], early: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss over learning rate.

    Args:
        full: Strategy -> (learning rate, evaluation loss) of each trial that was trained in full.
        early: Strategy -> learning rate of each trial that was not; ticks, for what they had reached does not compare.
    """
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (strategy, points) in enumerate(full.items()):
        colour, marker = series_style(number)
        axes.plot(*zip(*sorted(points), strict=True), marker=marker, color=colour, label=_label(strategy))
    for number, strategy in enumerate([*full, *(name for name in early if name not in full)]):
        rates = early.get(strategy, ())
        heights = [0.02 + 0.015 * (number % 7)] * len(rates)
        axes.plot(rates, heights, "|", color=series_style(number)[0], transform=axes.get_xaxis_transform(), alpha=0.7)
    axes.set_xscale("log")
    axes.margins(y=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate (ticks: ended early)")
    axes.set_ylabel("evaluation loss")
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def shrink_curve(points: Sequence[tuple[int, float]]) -> Figure:
    """Draw (parameters, test loss) of the winner at its sizes, and a line 1 % above the best perplexity."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True), marker="o", color=COLOURS[0])
    axes.axhline(ranking.within(loss for _, loss in points), color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel("parameters kept")
    axes.set_ylabel("test loss")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure
