"""What a short search leaves, from rows made by hand and from simulated searches."""

import math

import pytest
from click.testing import CliRunner

from analysis.results.rows import write_rows
from analysis.results.trial_config import TrialConfig
from benchmarks import regret
from tests.fakes.rows import run


def trial(strategy, number, loss, **values):
    row = run(strategy, number, loss - 0.1, "search", **values)
    return type(row)(f"t{number:03d}", row.experiment_name, strategy, row.status, final_eval_loss=loss)


ROWS = [
    trial("composite", 4, 3.5), trial("baseline", 3, 3.6), trial("composite", 2, 4.0), trial("baseline", 1, 3.7),
    trial("composite", 6, 3.4), trial("baseline", 5, 3.55), run("composite", 1, 1.0),
]  # fmt: skip


def test_a_regret_is_the_best_of_the_trials_drawn_first_over_the_best_of_all():
    best = regret.best_losses(ROWS)
    assert best == {"composite": 3.4, "baseline": 3.55}, "confirmation runs are no trials"
    assert regret.regrets(ROWS, best, 1) == pytest.approx({"composite": 0.6, "baseline": 0.15})
    assert regret.regrets(ROWS, best, 2) == pytest.approx({"composite": 0.1, "baseline": 0.05})
    assert regret.regrets(ROWS[:1], best, 2)["baseline"] == math.inf


def test_runs_are_measured_by_their_rows(tmp_path):
    write_rows(ROWS, tmp_path / "rows.jsonl")
    out = CliRunner().invoke(regret.main, [str(tmp_path), "--trials", "2"]).output
    # of two trials the best composite is 3.5, the best baseline 3.6
    assert f"| {tmp_path.name} | composite | 2 | 0.1000 | 1 of 1 |" in out


def test_the_surface_is_lowest_where_it_says():
    def loss(slope, rate):
        return regret.surface(TrialConfig("linear_decay", params={"slope": slope}, learning_rate=rate))

    assert loss(-0.5, 0.025) < loss(0.0, 0.025) < loss(0.5, 0.025)
    assert min((0.01, 0.025, 0.05), key=lambda rate: loss(0.0, rate)) == 0.025


def test_a_simulated_search_is_the_same_again_and_told_points_are_no_trials():
    told, again = (regret.simulated(4, 3, finds_rate=False) for _ in range(2))
    assert [row.config for row in told] == [row.config for row in again]
    assert {name: sum(row.strategy == name for row in told) for name in regret.STRATEGIES} == dict.fromkeys(
        regret.STRATEGIES, 4
    )
    untold = regret.simulated(4, 3, plain_points=False, finds_rate=False)
    assert [row.config for row in untold] != [row.config for row in told]


def test_a_simulated_search_that_finds_its_rate_first_begins_where_plain_lora_is_best():
    first = regret.simulated(1, 3)[0]
    assert (first.strategy, first.learning_rate) == ("baseline", pytest.approx(0.025))
