"""Which trials are on the front, by hand and as a property, and where the report shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.report.drawing import series_style
from analysis.report.pictures import drawn
from analysis.report.report import render
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.stats import pareto
from tests.fakes.rows import assess


def row(name, params, loss, strategy="baseline", status="finished", **values):
    return ResultRow(name, name, strategy, status, trainable_parameters=params, final_eval_loss=loss, **values)


def names(rows):
    return [row.trial_id for row in rows]


def dominates(a, b):
    """As the textbook has it: nowhere worse, somewhere better."""
    (params, loss), (other_params, other_loss) = pareto.point(a), pareto.point(b)
    return params <= other_params and loss <= other_loss and (params < other_params or loss < other_loss)


def test_the_front_of_a_hand_worked_example():
    rows = [
        row("large and good", 400, 1.0), row("large and worse", 400, 1.1), row("middle", 200, 1.5, "empirical"),
        row("small", 100, 2.0), row("small and worse", 100, 2.5), row("beaten by the middle", 300, 1.6),
    ]  # fmt: skip
    assert names(pareto.front(rows)) == ["small", "middle", "large and good"]


def test_a_trial_that_costs_more_for_the_same_loss_is_not_on_the_front():
    assert names(pareto.front([row("more", 200, 1.0), row("fewer", 100, 1.0)])) == ["fewer"]


def test_trials_that_are_equal_in_both_are_on_the_front_together():
    assert names(pareto.front([row("a", 100, 1.0), row("b", 100, 1.0), row("c", 50, 2.0)])) == ["c", "a", "b"]


def test_only_trials_trained_in_full_with_known_size_are_compared():
    rows = [
        row("stopped", 10, 0.1, status="stopped"), row("diverged", 10, None, status="diverged"),
        row("unknown", None, 0.1), row("done", 100, 1.0),
    ]  # fmt: skip
    assert names(pareto.front(rows)) == ["done"]
    assert pareto.front([]) == []


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_no_member_is_dominated_and_every_other_trial_is_dominated_by_a_member(points):
    rows = [row(str(number), params, float(loss)) for number, (params, loss) in enumerate(points)]
    members = pareto.front(rows)
    member_ids = set(names(members))
    assert not any(dominates(other, member) for member in members for other in rows)
    for other in rows:
        assert other.trial_id in member_ids or any(dominates(member, other) for member in members)
    assert [pareto.point(member)[0] for member in members] == sorted(pareto.point(member)[0] for member in members)


def test_the_report_has_the_front_as_a_table_and_a_picture_after_the_verdict():
    rows = [
        row("a", 1024, 4.0, "empirical", test_loss=4.25), row("b", 512, 4.5), row("c", 768, 4.75, "linear_decay"),
        row("again", 128, 3.0, phase="confirm"),
    ]  # fmt: skip
    text = render(assess(rows), RunInfo("now"), drawn(assess(rows), RunInfo("now")))
    section = text.split("## Pareto Front\n")[1].split("\n## ")[0]
    assert text.index("## Verdict") < text.index("## Pareto Front")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    assert lines[2:] == [["512", "4.5000", "", "baseline", "b"], ["1,024", "4.0000", "4.2500", "empirical", "a"]]
    assert "the front is 2 trials, from 512 parameters at 4.5000 to 1,024 at 4.0000" in section
    assert "](figures/pareto.svg)" in section


@pytest.mark.parametrize(("params", "shown"), [((1000, 1000), False), ((1000, 951), False), ((1000, 950), True)])
def test_there_is_no_front_where_sizes_differ_by_less_than_what_counts_as_fewer(params, shown):
    rows = [row("a", params[0], 4.0), row("b", params[1], 4.1)]
    assert any(picture.name == "pareto" for picture in drawn(assess(rows), RunInfo("now"))) is shown


def test_series_keep_signs_of_their_own_beyond_the_seventh():
    assert len({series_style(number) for number in range(14)}) == 14
