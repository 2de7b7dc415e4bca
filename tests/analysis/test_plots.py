import itertools
from dataclasses import replace

import pytest

from analysis.report import drawing, plots
from analysis.results.rows import ResultRow
from analysis.stats.statistics import Paired
from analysis.stats.verdicts import Verdict

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
def test_learning_curves_have_a_panel_for_each_strategy_and_steps_below_every_column(count):
    figure = plots.learning_curves([row(f"strategy {number}") for number in range(count)])
    assert titled(figure) == [f"strategy {number}" for number in range(count)]
    assert len(figure.axes) == count
    drawing.svg(figure, "curves")
    shown = [any(label.get_visible() and label.get_text() for label in axes.get_xticklabels()) for axes in figure.axes]
    assert shown == [False] * max(0, count - 2) + [True] * min(2, count)


def test_trials_that_end_far_above_the_others_are_triangles_at_the_edge_and_leave_these_their_room():
    stopped = [ResultRow(name, name, "some", "stopped", history=({"step": 5, "eval_loss": loss},))
               for name, loss in (("far", 9.0), ("near", 4.6))]  # fmt: skip
    figure = plots.learning_curves([row("some"), *stopped])  # in full: 4.5, then 4.0
    (axes,) = figure.axes
    assert axes.get_ylim() == pytest.approx((4.0 - 0.05 * 0.625, 4.5 + 0.25 * 0.5))
    triangles = [line for line in axes.lines if line.get_marker() == plots.ABOVE]
    assert [list(line.get_xdata()) for line in triangles] == [[5]]
    assert drawing.svg(figure, "a").count("<title>far") == 2
    assert plots.upper_edge([row("some"), stopped[1]]) is None
    assert plots.upper_edge(stopped) is None


def test_each_rank_that_occurs_has_a_colour_of_its_own_as_far_from_the_next_as_all_are():
    figure = plots.heatmaps({"a": {"h.0.attn": 1, "h.1.attn": 2, "h.2.attn": 3}, "b": {"h.0.attn": 64, "h.1.attn": 2}})
    colours = {
        (axes.get_title(), round(cell.get_x() + 0.5)): cell.get_facecolor()
        for axes in figure.axes[:2]
        for cell in axes.patches
    }
    assert len({*colours.values()}) == 4
    assert colours["a", 1] == colours["b", 1]
    lightness = [sum(colours[place][:3]) for place in (("a", 0), ("a", 1), ("a", 2), ("b", 0))]
    steps = [after - before for before, after in itertools.pairwise(lightness)]
    assert min(steps) > 0.2, "as large between 1 and 2 as between 3 and 64"
    assert [text.get_text() for text in figure.axes[-1].get_yticklabels()] == ["1", "2", "3", "64"]


def test_learning_rates_show_losses_of_full_trials_and_of_others_the_rates_alone():
    figure = plots.learning_rates({"baseline": [(0.01, 4.6)]}, {"baseline": [0.05], "empirical": [0.02]})
    (axes,) = figure.axes
    in_data = [line for line in axes.lines if line.get_transform() == axes.transData]
    assert {rate for line in in_data for rate in line.get_xdata()} == {0.01}
    assert "0.05" not in drawing.svg(figure, "a").partition("<title>")[2].partition("</title>")[0]


def test_learning_rates_stand_below_their_axis_without_running_into_each_other():
    figure = plots.learning_rates({"baseline": [(0.002, 4.7), (0.01, 4.6), (0.05, 4.9)]}, {})
    drawing.svg(figure, "rates")
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert [label.get_text() for label in labels] == ["0.002", "0.005", "0.01", "0.02", "0.05"]
    boxes = [label.get_window_extent() for label in labels]
    assert all(box.x1 < next_box.x0 for box, next_box in itertools.pairwise(boxes))


@pytest.mark.parametrize("name", ["m" * 40, "x", "漢" * 12])
def test_a_heatmap_has_room_for_its_names_whatever_their_signs_are(name):
    ranks = {f"h.{layer}.{name}{matrix}": layer for layer in range(2) for matrix in range(5)}
    drawing.svg(plots.heatmaps({f"{name}{number}": ranks for number in range(3)}), "ranks")  # a warning fails it


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_differences_stand_below_their_axis_without_running_into_each_other(scale):
    pairs = [Paired((-0.0123 * scale, 0.0042 * scale, 0.0021 * scale)), Paired((-0.0017 * scale, -0.0009 * scale))]
    judged = [Verdict(f"s{n}", "tie", each, (), 1, False, 0, 0, None, 0.01) for n, each in enumerate(pairs)]
    figure = plots.differences(judged, 0.002 * scale)
    drawing.svg(figure, "differences")
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) >= 3
    assert all(box.x1 + 4 < next_box.x0 for box, next_box in itertools.pairwise(boxes))


def test_a_front_may_begin_with_the_untouched_base_which_has_no_parameters():
    rows = [
        replace(row(name), trainable_parameters=params, final_eval_loss=loss)
        for name, params, loss in (("untouched", 0, 6.0), ("half", 500, 5.0), ("whole", 1000, 4.0))
    ]
    figure = plots.pareto_front(rows, rows)
    (axes,) = figure.axes
    assert [*axes.get_xticks()] == [0, 500, 1000]
    assert "<title>untouched: 0 parameters" in drawing.svg(figure, "front")
