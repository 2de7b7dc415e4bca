"""A search within a time limit: what it plans, what it keeps to, and what it says."""

import functools
import json
from collections import Counter
from types import SimpleNamespace

import pytest

from analysis.results.rows import ResultRow, read_rows
from analysis.results.trial_config import TrialConfig
from tests.fakes import ray_tune, trial
from tuning import stages
from tuning.cli import main
from tuning.lifecycle.timeline import Timeline
from tuning.plan.search_plan import SearchPlan
from tuning.plan.time_limit import planned, sentence, trial_seconds, visible_difference
from tuning.trials.deadline import Deadline

THREE = ("baseline", "eva", "linear_decay")


@pytest.mark.parametrize(
    ("text", "seconds"), [("10h", 36000), ("90m", 5400), ("2h30m", 9000), ("1.5h", 5400), ("0h5m", 300)]
)
def test_a_limit_is_of_hours_and_minutes(text, seconds):
    assert SearchPlan(time_limit=text).time_limit_seconds == seconds
    assert f"--time-limit {text}" in SearchPlan(time_limit=text).flags


@pytest.mark.parametrize("text", ["10", "h", "m", "0h", "0m", "1d", "30m2h", "-1h", "1h 30m", "90 m"])
def test_what_is_no_time_is_refused_in_a_line_that_says_what_would_be(text):
    with pytest.raises(ValueError, match=r"must be as 10h, 90m or 2h30m"):
        SearchPlan(time_limit=text)


def test_without_a_limit_a_plan_stays_as_it_is():
    plan = SearchPlan(strategies=THREE)
    assert planned(plan, 1.0) is plan
    assert plan.time_limit_seconds is None


def test_half_of_the_time_is_for_the_search_and_the_rest_for_seeds():
    # 100 minutes, less 4 %, are 96 runs of a minute; half of them are 9 seeds of 3 strategies and 2 controls, and
    # 9 seeds of two other sizes; of the 33 runs that are left a trial takes half a run, as most are stopped early
    choices = {"strategies": THREE, "time_limit": "100m", "learning_rate": 0.01}
    plan = planned(SearchPlan(**choices), 60.0)
    assert (plan.trials, plan.confirm_seeds) == (60, 9)
    # of trials that all are trained in full
    plan = planned(SearchPlan(**choices, scheduler="fifo"), 60.0)
    assert (plan.trials, plan.confirm_seeds) == (33, 9)
    plan = planned(SearchPlan(**choices, scheduler="fifo", num_samples=9), 60.0)
    assert (plan.trials, plan.confirm_seeds) == (9, 13), "what the search leaves, seeds take: (96 - 9 - 18) / 5"


def test_the_short_trials_that_find_the_learning_rate_take_of_the_time_what_they_cost():
    choices = {"strategies": THREE, "time_limit": "100m", "scheduler": "fifo"}
    given = planned(SearchPlan(**choices, learning_rate=0.01), 60.0)
    plan = planned(SearchPlan(**choices), 60.0)
    assert (given.trials - plan.trials, plan.confirm_seeds) == (2, 9), "seven of a quarter of a run"


def test_a_plan_has_never_less_than_a_verdict_takes_nor_more_than_is_asked_for():
    short = planned(SearchPlan(strategies=THREE, time_limit="1m"), 60.0)
    assert (short.trials, short.confirm_seeds) == (3, 2)
    asked = planned(SearchPlan(strategies=THREE, time_limit="1000h", num_samples=7, confirm_seeds=4), 60.0)
    assert (asked.trials, asked.confirm_seeds) == (7, 4)
    long = planned(SearchPlan(strategies=THREE, time_limit="1000h"), 60.0)
    assert (long.trials, long.confirm_seeds) == (60, 40)
    assert planned(SearchPlan(strategies=THREE, time_limit="9h"), 60.0, has_verdict=False).confirm_seeds == 0
    looks = planned(SearchPlan(strategies=THREE, time_limit="100m", confirm_seeds="auto"), 60.0)
    assert (looks.confirm_seeds, looks.trials) == ("auto", 60)


def test_a_thorough_search_within_a_limit_has_as_many_trials_as_fit_unless_their_number_is_given():
    # 20 trials each of 8 strategies, where the default of 20 trials for five would be 32
    plan = planned(SearchPlan(thorough=True, time_limit="1000h"), 60.0)
    assert (len(plan.strategies), plan.trials, plan.confirm_seeds) == (8, 160, 40)
    assert planned(SearchPlan(strategies=THREE, thorough=True, num_samples=9, time_limit="1000h"), 60.0).trials == 18


def test_it_says_which_differences_will_be_seen():
    # t(1 - .05 / 4, 11) = 2.5931 and t(.8, 11) = .8755 times .0057 / sqrt(12), of .0073 a doubling
    assert visible_difference(12, 2, 0.05) == pytest.approx((2.5931 + 0.8755) * 0.0057 / 12**0.5, rel=1e-4)
    plan = SearchPlan(strategies=THREE, time_limit="10h", num_samples=20, confirm_seeds=12)
    assert sentence(plan).startswith(
        "time limit 10h: 20 trials for 3 strategies, 12 seeds: differences of 0.8 doublings (0.0057 nats per token) "
    )
    assert sentence(plan.model_copy(update={"confirm_seeds": 0})) == (
        "time limit 10h: 20 trials for 3 strategies, 0 seeds"
    )
    # ten are likely, of which the second look may err in 5 % * .1628: t(1 - .00814 / 4, 9) = 3.8232, t(.8, 9) = .8834
    with_looks = sentence(plan.model_copy(update={"confirm_seeds": "auto"}))
    assert visible_difference(10, 2, 0.05 * 0.1628) == pytest.approx((3.8232 + 0.8834) * 0.0057 / 10**0.5, rel=1e-3)
    assert "5 to 40 seeds, about 10: differences of 1.2 doublings (0.0085 nats per token)" in with_looks


def test_a_part_of_the_time_is_kept_for_the_report():
    assert trial_seconds(SearchPlan(time_limit="10h")) == pytest.approx(36000 * 0.96)
    assert trial_seconds(SearchPlan(time_limit="10m")) == 600 - 45


PLAN = SearchPlan(strategies=THREE, time_limit="100m", num_samples=8, confirm_seeds=4, sizes=False)
"""Its trials have 5,760 seconds."""


class Search:
    """A record of trials of ten steps, and a clock."""

    def __init__(self, plan=PLAN):
        self.now, self.record = 0.0, SimpleNamespace(rows={}, reports={}, configs={})
        self.deadline = Deadline(plan, self.record, 10, 60.0, lambda: self.now)

    def end(self, seconds, number=0, step=10, **choices):
        """Have a trial end after some seconds."""
        config = TrialConfig("eva", f"t{len(self.record.configs)}", **choices)
        self.record.configs[config.trial_id] = config
        self.record.rows[config.trial_id] = ResultRow(
            config.trial_id, config.trial_id, "eva", "finished", config=config.to_ray(), phase=config.phase,
            history=({"step": step},), training_time_seconds=seconds,
        )  # fmt: skip
        self.now += seconds


def test_the_pace_is_an_estimate_until_a_run_is_measured_and_counts_what_has_not_ended():
    search = Search()
    assert search.deadline.run_seconds == 60
    search.end(50.0, step=5)
    assert search.deadline.run_seconds == 60, "half a run says little"
    search.record.reports["t1"] = {2: {}, 5: {}}
    assert search.deadline.run_seconds == 50


def test_no_further_trial_begins_once_the_seeds_would_have_to_wait_but_each_strategy_has_one():
    search = Search()
    for _ in range(2):
        search.end(10_000.0)
    assert search.deadline.may_search()
    assert not search.deadline.kept_out
    search.end(10_000.0)
    assert not search.deadline.may_search()
    assert search.deadline.kept_out
    # 4 seeds of 5 runs and one trial more are 21 runs of 100 s
    in_time, late = Search(), Search()
    for other, spent in ((in_time, 5760 - 2100), (late, 5760 - 2100 + 1)):
        for _ in range(10):
            other.end(100.0)
        other.record.rows["t0"].history[0]["step"] += 10 * (spent - other.now) / 100
        other.now = spent
    assert in_time.deadline.may_search()
    assert not late.deadline.may_search()


def test_where_trials_take_longer_than_planned_half_of_the_time_is_for_the_search_all_the_same():
    # 5,760 s are 30 runs of 192 s: in half of them are three of the four planned seeds, and with one trial more 16 runs
    in_time, late = Search(), Search()
    for other, trials in ((in_time, 14), (late, 15)):
        for _ in range(trials):
            other.end(192.0)
    assert in_time.deadline.may_search()
    assert not late.deadline.may_search()


def runs_of(*seeds, **choices):
    return [TrialConfig(name, f"{name}_{seed}", "confirm", seed=seed, **choices) for seed in seeds for name in THREE]


def test_a_seed_begins_if_there_is_time_for_all_of_it_and_for_its_controls():
    search, wanted = Search(), runs_of(1, 2, 3, 4)
    for _ in range(4):
        search.end(100.0)
    first, second, third = wanted[0], wanted[3], wanted[6]
    search.now += 5760  # late as can be
    search.record.rows["t0"].history[0]["step"] += 576
    assert search.deadline.may_confirm(first, wanted)
    assert search.deadline.may_confirm(second, wanted), "a verdict takes two"
    assert not search.deadline.may_confirm(third, wanted)
    search.record.configs[third.trial_id] = third
    assert search.deadline.may_confirm(wanted[8], wanted), "no seed is left half"
    control = TrialConfig("shuffled", "shuffled_1", "confirm", seed=1, control_of="eva")
    assert not search.deadline.may_confirm(control, [control])


class Clock:
    """It goes on by some seconds with each step of a trial."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 0.0, seconds
        advance = trial.FakeLearner.advance

        def advanced(learner):
            self.now += self.seconds
            advance(learner)

        monkeypatch.setattr(trial.FakeLearner, "advance", advanced)
        monkeypatch.setattr(stages, "Timeline", functools.partial(Timeline, clock=lambda: self.now))
        monkeypatch.setattr(stages.process, "seconds_before_search", lambda: 0.0)
        monkeypatch.setattr(stages.preview, "run_seconds", lambda plan, checked: 6.0 * seconds)  # of six steps


@pytest.fixture
def limited(simulated, small, tmp_path):
    """A function that runs a search of which three strategies may take two hours."""

    def run(*flags):
        names = ["--strategies", "baseline,linear_decay,attention_heavy", "--max-concurrent-trials", "2"]
        return main([*small[:-2], *names, "--time-limit", "2h", "--runs-dir", str(tmp_path), *flags])

    return run


@pytest.mark.search
@pytest.mark.parametrize("slower", [1, 2, 4])
def test_a_search_keeps_to_its_limit_however_wrong_the_estimate_was(limited, tmp_path, monkeypatch, capsys, slower):
    clock = Clock(monkeypatch, 10.0)
    clock.seconds *= slower
    assert limited("--name", "limited") == 0
    out, rows = capsys.readouterr().out, read_rows(tmp_path / "limited" / "rows.jsonl")
    facts = json.loads((tmp_path / "limited" / "facts.json").read_text())
    assert clock.now <= 7200 * 1.05
    assert sum(facts["seconds"].values()) == pytest.approx(clock.now)
    plan = json.loads((tmp_path / "limited" / "plan.json").read_text())
    assert f"time limit 2h: {plan['num_samples']} trials for 3 strategies, {plan['confirm_seeds']} seeds: diff" in out
    seeds = Counter(row.strategy for row in rows if row.phase == "confirm" and row.control_of is None)
    assert len(set(seeds.values())) == 1, "seeds are whole"
    assert min(seeds.values()) >= 2
    if slower > 1:
        searched = sum(row.phase == "search" for row in rows)
        said = f"ime limit 2h: {searched} of {plan['num_samples']} trials and {min(seeds.values())} of "
        assert f"T{said}" in out
        assert f"- **Resource event:** t{said}" in (tmp_path / "limited" / "report.md").read_text()
        assert "no more configurations that differ" not in out


@pytest.mark.search
def test_a_killed_search_goes_on_with_the_time_that_it_had_left(limited, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, 20.0)
    with monkeypatch.context() as patch:
        ray_tune.kill_at(patch, lambda harvest: len(harvest.record.rows) == 12)
        with pytest.raises(ray_tune.Killed):
            limited("--name", "killed")
    spent = sum(json.loads((tmp_path / "killed" / "facts.json").read_text())["seconds"].values())
    assert 0 < spent <= clock.now
    clock.now += 1e6  # that nothing ran counts for nothing
    began = clock.now
    assert main(["--resume", "killed", "--runs-dir", str(tmp_path)]) == 0
    assert spent + clock.now - began <= 7200 * 1.05


@pytest.mark.search
def test_a_search_that_is_taken_up_with_another_limit_trains_what_was_planned(limited, tmp_path, monkeypatch, capsys):
    Clock(monkeypatch, 10.0).seconds *= 4
    with monkeypatch.context() as patch:
        ray_tune.kill_at(patch, lambda harvest: len(harvest.record.rows) == 2)
        with pytest.raises(ray_tune.Killed):
            limited("--name", "longer")
    assert capsys.readouterr().out.startswith("within 2h: baseline, linear_decay, attention_heavy\n")
    assert main(["--resume", "longer", "--runs-dir", str(tmp_path), "--time-limit", "40h"]) == 0
    plan = json.loads((tmp_path / "longer" / "plan.json").read_text())
    rows = read_rows(tmp_path / "longer" / "rows.jsonl")
    assert plan["time_limit"] == "40h"
    assert sum(row.phase == "search" for row in rows) == plan["num_samples"]
    assert len({row.seed for row in rows if row.phase == "confirm"}) == plan["confirm_seeds"]


@pytest.mark.search
def test_a_dry_run_only_plans(limited, tmp_path, monkeypatch, capsys):
    Clock(monkeypatch, 10.0)
    assert limited("--dry-run") == 0
    out = capsys.readouterr().out
    assert "time limit 2h: " in out
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert limited("--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert f"{planned['trials']} trials for 3 strategies, {planned['confirm_seeds']} seeds" in out
