"""Pictures: every function draws one from rows and returns it. Colours are Okabe and Ito's; markers differ, too."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from analysis.report.drawing import BAND, COLOURS, INK, QUIET, STYLE, inches, label, series_style, tip
from analysis.report.winner import grid
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Status
from analysis.stats import pareto, ranking
from analysis.stats.statistics import span
from analysis.stats.verdicts import Verdict

WIDTH = 6.4
MOST_TICKS, ABOVE = 5, 6  # the sixth marker is a triangle whose tip is its place, which no series has
MOST_NUMBERS, MOST_CELLS = 600, 2000
"""Cells of heatmaps that have their rank written in them, and that are drawn one by one: a page is to stay small."""


@matplotlib.rc_context(STYLE)
def heatmaps(allocations: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw allocations beside each other, title -> site name -> rank: a row per matrix and a column per layer.

    All have one scale, in which each rank that occurs is a step, however near it is to the next.
    """
    grids = {title: grid(ranks) for title, ranks in allocations.items()}
    steps = sorted({rank for ranks in allocations.values() for rank in ranks.values()})
    layers, matrices = (max(len(rank_grid[axis]) for rank_grid in grids.values()) for axis in (0, 1))
    columns = 1 if len(grids) == 1 or layers > 12 else 2
    rows = -(-len(grids) // columns)
    names = max(inches(label(name)) for _, matrix_names, _ in grids.values() for name in matrix_names)
    across = max(0.34 * layers, max(map(inches, map(label, grids))) - names)  # a title may be wider than its panel
    size = (1.4 + columns * (0.4 + names + across), rows * (1.0 + 0.32 * matrices))
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    image = _colours(steps)
    cells = sum(map(len, allocations.values()))
    for panel, (title, layers_matrices_ranks) in zip(panels, grids.items(), strict=False):
        _heatmap(panel, title, *layers_matrices_ranks, image, cells)
    for panel in panels[len(grids) :]:
        panel.remove()
    shown = range(0, len(steps), 1 + len(steps) // 12)
    bar = figure.colorbar(image, ax=list(figure.axes), label="rank", ticks=list(shown))
    bar.ax.set_yticklabels([str(steps[place]) for place in shown])
    bar.ax.tick_params(length=0)
    return figure


def _colours(steps: Sequence[int]) -> Any:
    """Return a scale of colours for ranks, with a colour for each, all as far apart as they can be."""
    colours = matplotlib.colormaps["cividis"](np.linspace(0, 1, len(steps)))
    norm = BoundaryNorm(np.arange(len(steps) + 1) - 0.5, len(steps))
    image = ScalarMappable(norm, ListedColormap(colours))
    image.set_array(np.array(steps))
    return image


def _heatmap(
    axes: Any, title: str, layers: list[int], matrices: list[str], ranks: list[list[int | None]], image: Any, cells: int
) -> None:
    steps = [int(step) for step in image.get_array()]
    places = np.array([[np.nan if rank is None else steps.index(rank) for rank in row] for row in ranks], dtype=float).T
    colours = image.to_rgba(range(len(steps)))
    axes.grid(visible=False)
    step = 1 + len(layers) // 24
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_yticks(range(len(matrices)), [label(name) for name in matrices])
    axes.set_xlabel("layer")
    axes.set_title(label(title), fontsize=9)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(len(matrices) - 0.5, -0.5)
    if cells > MOST_CELLS:
        axes.imshow(places, cmap=image.cmap, norm=image.norm, aspect="auto")
        return
    for (row, column), place in np.ndenumerate(places):
        if not np.isnan(place):
            cell = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colours[int(place)], linewidth=0)
            cell.set_in_layout(False)
            tip(cell, f"{title}: layer {layers[column]}, {matrices[row]}, rank {steps[int(place)]}")
            axes.add_artist(cell)
            if cells <= MOST_NUMBERS:
                colour = "#fefefe" if place < 0.6 * (len(steps) - 1) or len(steps) == 1 else "#010101"
                axes.text(
                    column, row, str(steps[int(place)]), ha="center", va="center", color=colour, fontsize=7,
                    in_layout=False, gid=cell.get_gid(),
                )  # fmt: skip


@matplotlib.rc_context(STYLE)
def differences(judged: Sequence[Verdict], margin: float) -> Figure:
    """Draw the strategies' differences to plain LoRA, whose mean must be known, and the band that does not matter."""
    figure = Figure(figsize=(5.2, 0.8 + 0.44 * len(judged)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(-margin, margin, color=BAND, zorder=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for position, verdict in enumerate(judged):
        values = verdict.pairs.differences
        (ticks,) = axes.plot(values, [position] * len(values), "|", color=QUIET, markersize=9)
        tip(ticks, f"{verdict.strategy}: {', '.join(f'{value:+.4f}' for value in values)}")
        interval = f", {span(verdict.pairs.interval)}" if verdict.pairs.interval else ""
        said = f"{verdict.strategy}: {verdict.pairs.mean:+.4f}{interval}, {verdict.reads}"
        if verdict.pairs.interval is not None:
            (line,) = axes.plot(verdict.pairs.interval, [position] * 2, color=COLOURS[0], linewidth=2)
            tip(line, said)
        (mean,) = axes.plot([verdict.pairs.mean or 0.0], [position], "o", color=COLOURS[0])
        tip(mean, said)
        number = f"{verdict.pairs.mean:+.4f}"
        axes.text(1.02, position, number, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(
        range(len(judged)),
        ["\n".join((label(verdict.strategy), *verdict.reads.split(", "))) for verdict in judged],
        fontsize=8,
    )
    axes.set_ylim(len(judged) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("test loss minus plain LoRA's, nats per token (left is better)", fontsize=8)
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
    axes.step(*zip(*map(pareto.point, front), strict=True), where="post", color=QUIET, linewidth=1.2, zorder=1)
    front_ids = {row.trial_id for row in front}
    for number, strategy in enumerate(dict.fromkeys(row.strategy for row in rows)):
        colour, marker = series_style(number)
        for row in (row for row in rows if row.strategy == strategy):
            face = colour if row.trial_id in front_ids else "none"
            params, loss = pareto.point(row)
            (point,) = axes.plot(params, loss, marker, color=colour, markerfacecolor=face, markersize=5.5, zorder=2)
            tip(point, f"{row.experiment_name}: {params:,} parameters, {loss:.4f}")
        axes.plot([], [], marker, color=colour, label=label(strategy))
    sizes = sorted({pareto.point(row)[0] for row in rows})
    nothing, sizes = sizes[: sizes[0] == 0], sizes[sizes[0] == 0 :]  # a table may have the untouched base
    if nothing and sizes:
        axes.set_xscale("symlog", linthresh=sizes[0])
    elif sizes:
        axes.set_xscale("log")
    axes.set_xticks([*nothing, *(_halvings(sizes[0], sizes[-1]) if sizes else ())])
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
    """Draw every trial's evaluation loss over its steps, a panel per strategy; the best finished one is bold.

    Trials that end far above all that were trained in full are triangles at the upper edge: they would leave no room.
    """
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    columns = min(2, len(strategies))
    height = 0.4 + 1.9 * -(-len(strategies) // columns)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(-(-len(strategies) // columns), columns, sharex=True, sharey=True, squeeze=False)
    edge = upper_edge(rows)
    for number, (axes, strategy) in enumerate(zip(panels.flat, strategies, strict=False)):
        colour, marker = series_style(number)
        strategy_rows = [row for row in rows if row.strategy == strategy and row.history]
        finished = [row for row in strategy_rows if row.status == Status.FINISHED and row.final_eval_loss is not None]
        best = min(finished, key=lambda row: row.final_eval_loss or 0.0, default=None)
        for row in strategy_rows:
            points = [
                (point["step"], point["eval_loss"]) for point in row.history if point.get("eval_loss") is not None
            ]
            width, alpha = (2.0, 1.0) if row is best else (0.8, 0.5)
            (line,) = axes.plot(
                *zip(*points, strict=True), marker=marker, markersize=3, linewidth=width, alpha=alpha, color=colour
            )
            said = f"{row.experiment_name} ({row.status}): {points[-1][1]:.4f} at step {points[-1][0]}"
            tip(line, said)
            if edge is not None and points[-1][1] > edge:
                (above,) = axes.plot(
                    points[-1][0], 0.96, marker=ABOVE, color=colour, markersize=4, transform=axes.get_xaxis_transform()
                )
                tip(above, said)
        axes.set_title(label(strategy), fontsize=9)
    if edge is not None:
        low = min(line.get_ydata().min() for axes in panels.flat for line in axes.lines if line.get_marker() != ABOVE)
        panels[0, 0].set_ylim(low - 0.05 * (edge - low), edge)
    for axes in list(panels.flat)[len(strategies) :]:
        axes.remove()
    for axes in list(panels.flat)[: len(strategies)][-columns:]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("optimizer step", fontsize=9)
    figure.supylabel("evaluation loss", fontsize=9)
    return figure


def upper_edge(rows: Sequence[ResultRow]) -> float | None:
    """Return where learning curves end above; None if all that there are lie near those of trials trained in full."""
    losses = {
        full: [
            point["eval_loss"]
            for row in rows
            if (row.status == Status.FINISHED) is full
            for point in row.history
            if point.get("eval_loss") is not None
        ]
        for full in (True, False)
    }
    if not losses[True] or not losses[False]:
        return None
    low, high = min(losses[True]), max(losses[True])
    edge = high + 0.25 * (high - low)
    return edge if high > low and max(losses[False]) > edge else None


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
        axes.plot(*zip(*sorted(points), strict=True), color=colour, linewidth=0.8)
        axes.plot([], [], marker=marker, color=colour, linewidth=0.8, label=label(strategy))
        for rate, loss in points:
            (point,) = axes.plot(rate, loss, marker, color=colour, markersize=5)
            tip(point, f"{strategy}: {loss:.4f} at {rate:.2g}")
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
    axes.plot(*zip(*points, strict=True), color=COLOURS[0])
    for params, loss in points:
        (point,) = axes.plot(params, loss, "o", color=COLOURS[0])
        tip(point, f"{params:,} parameters: {loss:.4f}")
    axes.axhline(ranking.within(loss for _, loss in points), color=INK, linewidth=0.8, linestyle="--")
    axes.set_xlabel("parameters kept")
    axes.set_ylabel("test loss")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure
