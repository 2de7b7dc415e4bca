"""Pictures of allocations."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.winner import grid


def rank_heatmap(ranks: Mapping[str, int], title: str, path: Path) -> None:
    """Draw ranks with a row per matrix and a column per layer, and write the picture to ``path``."""
    layers, matrices, cells = grid(ranks)
    values = np.array([[np.nan if rank is None else rank for rank in row] for row in cells], dtype=float).T
    figure = Figure(figsize=(2.6 + 0.42 * len(layers), 1.5 + 0.42 * len(matrices)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    top = max(1.0, float(np.nanmax(values)))
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(range(len(matrices)), matrices)
    axes.set_xlabel("layer")
    axes.set_title(title, fontsize=10)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value < 0.6 * top else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="rank")
    figure.savefig(path, dpi=120)
