"""What each strategy's search and one training of its best cost."""

import pytest

from analysis.report import bill
from tests.fakes.rows import assess, report, run

BASE = 1_000_000


def trial(strategy, number, tokens, seconds, **values):
    return run(strategy, number, 4.0, "search", tokens=tokens, training_time_seconds=seconds, **values)


def confirmed(strategy, seed, tokens, seconds, **values):
    return run(strategy, seed, 4.0, tokens=tokens, training_time_seconds=seconds, **values)


ROWS = [
    trial("baseline", 0, 3000, 30.0), trial("baseline", 1, 1000, 10.0, status="stopped"),
    trial("adalora", 2, 3000, 45.0, config={"adalora": {"initial": 1.25}}),
    confirmed("baseline", 1, 3000, 28.0), confirmed("baseline", 2, 3000, 32.0),
    confirmed("adalora", 1, 3000, 40.0, config={"adalora": {"initial": 1.25}}),
    run("baseline", 1, 3.9, "sizes", config={"baseline": {"budget_share": 2.0}}, tokens=9000, training_time_seconds=9),
    confirmed("shuffled", 1, 7000, 70.0, config={"shuffled": {"of": "baseline"}}),
]  # fmt: skip


def cells(rows, base_params=BASE):
    lines = [line for line in bill.section(assess(rows), base_params) if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in "\n".join(lines).splitlines()[2:]]


def test_a_bill_has_the_whole_search_and_the_mean_of_the_runs_that_confirm():
    # 4000 * (4 * 1,000,000 + 6 * 1000) = 1.6024e10; 3000 of them 1.2018e10
    assert cells(ROWS)[0] == ["baseline", "4,000", "1.60e+10", "40.0 s", "3,000", "1.20e+10", "30.0 s", "1,000"]


def test_who_prunes_is_billed_for_the_parameters_that_it_begins_with():
    # a quarter more than a rank of 2 is 3, so half as much again: 3000 * (4,000,000 + 6 * 1500) = 1.2027e10
    assert cells(ROWS)[1][-1] == "1,500"
    adalora = next(row for row in ROWS if row.strategy == "adalora")
    assert bill.operations_of(adalora, BASE, 2) == pytest.approx(1.2027e10)
    assert bill.params_at_start(adalora, None) == 1250


def test_without_confirmation_runs_one_training_is_a_trial_that_finished():
    assert cells(ROWS[:2])[0][4:7] == ["3,000", "1.20e+10", "30.0 s"]


def test_a_mean_is_over_the_runs_of_which_it_is_known():
    rows = [*ROWS, confirmed("baseline", 3, None, None)]
    assert cells(rows)[0] == cells(ROWS)[0]


def test_what_is_unknown_is_left_out():
    assert cells(ROWS[:1], None)[0] == ["baseline", "3,000", "", "30.0 s", "3,000", "", "30.0 s", "1,000"]
    assert bill.section(assess([run("baseline", 0, 4.0, "search")]), BASE) == []


def test_a_report_has_the_bill_after_the_cost_of_all_trials():
    text = report(ROWS, base_params=BASE)
    assert text.index("## Trials and Cost") < text.index("### Bill of Each Strategy")
    assert "1.60e+10" in text
