import itertools

import pytest

from analysis.report import plots
from analysis.results.rows import ResultRow

RANKS = {f"h.{layer}.{matrix}": layer + 1 for layer in range(3) for matrix in ("attn", "mlp")}


def row(strategy):
    history = tuple({"step": step, "eval_loss": 5.0 - step / 10} for step in (5, 10))
    return ResultRow(strategy, strategy, strategy, "finished", final_eval_loss=4.0, history=history)


def titled(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize("count", range(1, 6))
def test_a_heatmap_has_a_panel_for_each_allocation_and_no_empty_one(count):
    figure = plots.heatmaps({f"strategy {number}": RANKS for number in range(count)})
    assert titled(figure) == [f"strategy {number}" for number in range(count)]
    assert len(figure.axes) == count + 1, "and a bar of colours"


@pytest.mark.parametrize("count", range(1, 6))
def test_learning_curves_have_a_panel_for_each_strategy_and_steps_below_every_column(count, tmp_path):
    figure = plots.learning_curves([row(f"strategy {number}") for number in range(count)])
    assert titled(figure) == [f"strategy {number}" for number in range(count)]
    assert len(figure.axes) == count
    plots.save(figure, tmp_path / "curves.svg")
    shown = [any(label.get_visible() and label.get_text() for label in axes.get_xticklabels()) for axes in figure.axes]
    assert shown == [False] * max(0, count - 2) + [True] * min(2, count)


def test_learning_rates_stand_below_their_axis_without_running_into_each_other(tmp_path):
    figure = plots.learning_rates({"baseline": [(0.002, 4.7), (0.01, 4.6), (0.05, 4.9)]}, {})
    plots.save(figure, tmp_path / "rates.svg")
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert [label.get_text() for label in labels] == ["0.002", "0.005", "0.01", "0.02", "0.05"]
    boxes = [label.get_window_extent() for label in labels]
    assert all(box.x1 < next_box.x0 for box, next_box in itertools.pairwise(boxes))
