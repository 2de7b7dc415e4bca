"""Two objectives: every trial has a budget of its own, is stopped among its like, and is confirmed at all of it."""

import itertools
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from analysis.results.rows import ResultRow, read_rows
from analysis.results.trial_config import TrialConfig
from analysis.stats import pareto
from strategies import SEARCHED, RankBudget, Site, allocate
from trainables.spec import TrialSpec
from tuning.callbacks.trial_callback import row_from
from tuning.cli import main
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import SMALLEST_SHARE, budget_class
from tuning.state.record import Record
from tuning.trials.asha import StrategyASHA
from tuning.trials.confirmation import confirmations, controls
from tuning.trials.optuna_search import StudySearch
from tuning.trials.study_export import importances, mirror

TWO = SearchPlan(objective="loss,params", num_samples=40, seed=7, confirm_seeds=2)
STATUSES = {"finished": "finished", "stopped": "running", "diverged": "diverged"}
SITES = tuple(Site(f"h.{depth}", 64, 64, depth, "mlp") for depth in range(4))


def configuration(share, strategy="linear_decay", **params):
    return TrialConfig(strategy, params=params, learning_rate=0.01, budget_share=share, seed=7)


def suggested(search, number):
    return TrialConfig.from_ray(search.suggest(str(number)))


@pytest.fixture
def begin(tmp_path):
    """A function that begins a search in which no two configurations are the same."""

    def begin(plan, record=None):
        numbers, folder = itertools.count(), tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return StudySearch(plan, lambda config: str(next(numbers)), record or Record(folder))

    return begin


@pytest.fixture
def search(begin):
    return begin(TWO)


def finish(search, trial_id, loss, params):
    result = {"eval_loss": loss, "trainable_parameters": params, "status": "finished", "report": 4}
    search.on_trial_complete(trial_id, result)


def test_every_trial_has_a_budget_of_its_own_and_each_strategy_begins_with_all_of_it(search):
    configs = [suggested(search, number) for number in range(40)]
    first, later = configs[: len(SEARCHED)], configs[len(SEARCHED) :]
    assert [config.strategy for config in first] == list(SEARCHED)
    assert [config.budget_share for config in first] == [1.0] * len(SEARCHED)
    assert all(SMALLEST_SHARE <= config.budget_share <= 1 for config in later)
    assert Counter(budget_class(config) for config in later).keys() == {0, 1, 2}


def test_one_objective_has_one_budget(begin):
    search = begin(SearchPlan())
    assert [suggested(search, number).budget_share for number in range(8)] == [None] * 8


def test_optuna_hears_both_objectives_of_a_finished_trial_and_of_others_only_how_they_ended(search):
    for trial_id in ("finished", "stopped", "diverged"):
        search.suggest(trial_id)
        search.on_trial_result(trial_id, {"eval_loss": 2.0, "report": 1})
    finish(search, "finished", 1.5, 4096)
    search.on_trial_complete("stopped", {"eval_loss": 2.0, "status": "running", "training_iteration": 1})
    search.on_trial_complete("diverged", {"eval_loss": float("nan"), "status": "diverged"})
    done, stopped, diverged = search.study.trials
    assert (done.state, done.values) == (TrialState.COMPLETE, [1.5, 4096.0])
    assert (stopped.state, diverged.state) == (TrialState.PRUNED, TrialState.FAIL)
    assert [trial.values for trial in search.study.best_trials] == [[1.5, 4096.0]]


def test_the_sampler_learns_from_both_objectives_and_a_seed_repeats_it(begin):
    def configs(seed):
        search = begin(TWO.model_copy(update={"seed": seed}))
        handed_out = []
        for number in range(40):
            handed_out.append(suggested(search, number))
            share = handed_out[-1].budget_share
            if number % 5 == 4:
                search.on_trial_complete(str(number), {"eval_loss": 3.0, "status": "running"})
            else:
                finish(search, str(number), 2.0 - share + number % 3, round(4096 * share))
        return handed_out

    assert configs(1) == configs(1)
    assert configs(1) != configs(2)


def test_a_study_of_two_objectives_is_made_anew_from_its_record(begin):
    search = begin(TWO)
    for number, status in enumerate(("finished", "stopped", "diverged", "finished")):
        config = suggested(search, number)
        last = {"eval_loss": 2.0 - number / 10, "trainable_parameters": 4096, "status": STATUSES[status]}
        search.on_trial_complete(str(number), last)
        search._record.ended(row_from(config, last, [{"step": 1, "eval_loss": 2.5}]))
    again = begin(TWO, Record(search._record.run_dir))
    for trials in (again.study.trials, search.study.trials):
        assert [trial.values for trial in trials] == [[2.0, 4096.0], None, None, [1.7, 4096.0]]
    assert [trial.state for trial in again.study.trials] == [trial.state for trial in search.study.trials]
    assert again.suggest("5") == search.suggest("5")


def test_a_study_of_two_objectives_is_mirrored_to_a_journal(search, tmp_path):
    search.suggest("a")
    finish(search, "a", 1.25, 512)
    mirror(search.study, tmp_path / "optuna.journal", "mine")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    study = optuna.load_study(study_name="mine", storage=storage)
    assert [trial.values for trial in study.best_trials] == [[1.25, 512.0]]


def test_what_mattered_is_what_mattered_for_the_loss():
    """The rate decides the loss, the share the size, and nothing but the loss is asked about."""
    rng = random.Random(0)
    kinds = {
        "strategy": optuna.distributions.CategoricalDistribution(("baseline",)),
        "baseline/learning_rate": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True),
        "baseline/budget_share": optuna.distributions.FloatDistribution(0.125, 1, log=True),
    }
    study = optuna.create_study(directions=["minimize"] * 2)
    for _ in range(40):
        rate, share = 10 ** rng.uniform(-3, -1), 2 ** rng.uniform(-3, 0)
        params = {"strategy": "baseline", "baseline/learning_rate": rate, "baseline/budget_share": share}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=kinds, values=[rate + 1e-6 * share, 4096 * share])
        )
    assert importances(study)["baseline"]["learning_rate"] > 0.8


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, 0), (0.51, 0), (0.5, 1), (0.26, 1), (0.25, 2), (0.13, 2), (0.125, 2), (None, 0)]
)
def test_classes_of_budgets_are_halvings(share, expected):
    assert budget_class(configuration(share, "baseline")) == expected


def test_a_small_budget_is_not_stopped_by_what_larger_ones_reach():
    scheduler, numbers = StrategyASHA(reports=4), itertools.count()

    def first_report(share, loss):
        config = replace(configuration(share), trial_id=str(next(numbers)))
        trial = SimpleNamespace(trial_id="Ray's", config=config.to_ray())
        scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {"report": 1, "eval_loss": loss})

    assert first_report(1.0, 1.0) == first_report(0.9, 0.9) == TrialScheduler.CONTINUE
    assert first_report(0.3, 5.0) == TrialScheduler.CONTINUE
    assert first_report(0.15, 9.0) == TrialScheduler.CONTINUE
    assert first_report(0.14, 9.5) == TrialScheduler.STOP
    assert first_report(0.6, 4.0) == TrialScheduler.STOP


@pytest.mark.parametrize(("share", "params"), [(1.0, 1000), (0.5, 500), (0.3334, 333)])
def test_a_share_of_a_budget_is_rounded_down(share, params):
    assert RankBudget(1000, low=0, high=9).share(share) == RankBudget(params, low=0, high=9)


@pytest.mark.parametrize("share", [0.0, 4.01, float("nan")])
def test_no_size_is_more_than_four_times_the_budget(share):
    with pytest.raises(ValueError, match="share"):
        RankBudget(1000).share(share)


@pytest.mark.parametrize("share", [0.0, 1.01, float("nan")])
def test_nothing_goes_over_the_budget_given(share):
    with pytest.raises(ValueError, match="budget_share"):
        TrialSpec.from_config(configuration(share))


@pytest.mark.parametrize("share", [0.125, 0.3, 0.77, 1.0])
def test_a_trials_allocation_is_that_of_its_own_budget(share):
    spec, whole = TrialSpec.from_config(configuration(share, slope=1.0)), RankBudget.like_uniform(8, SITES)
    budget = RankBudget(int(share * whole.params), high=whole.high)
    assert spec.allocation(SITES, whole, {}) == allocate(spec.allocator.scores(SITES, {}), SITES, budget)
    assert share * whole.params - 128 < spec.allocation(SITES, whole, {}).params <= share * whole.params


def test_a_trial_is_named_after_its_budget_only_where_budgets_differ():
    assert replace(configuration(0.3333), trial_id="ab1").name == "linear_decay_budget0.33_lr0.01_ab1"
    assert TrialConfig("baseline", "ab1", learning_rate=0.01).name == "baseline_lr0.01_ab1"


def test_confirmation_runs_and_their_controls_have_the_whole_budget():
    def trial(strategy, loss, share):
        config = configuration(share, strategy).to_ray()
        return ResultRow(f"{strategy}{share}", strategy, strategy, "finished", config=config, final_eval_loss=loss)

    rows = [trial("baseline", 4.0, 1.0), trial("linear_decay", 3.9, 0.6), trial("linear_decay", 4.5, 0.2)]
    configs = confirmations(TWO, rows)
    assert [config.strategy for config in configs] == ["baseline", "linear_decay"] * 2
    confirmed = [
        ResultRow(
            str(n),
            "again",
            config.strategy,
            "finished",
            "confirm",
            seed=config.seed,
            config=config.to_ray(),
            final_eval_loss=4.0,
        )
        for n, config in enumerate(configs)
    ]
    everything = [*configs, *controls(TWO, [*rows, *confirmed])]
    assert len(everything) == 8
    assert {TrialSpec.from_config(config).budget_share for config in everything} == {1.0}
    assert configs[1].learning_rate == 0.01


def test_ranks_found_while_training_are_controlled_at_the_whole_budget():
    def row(strategy, share, loss, phase="search"):
        config = replace(configuration(share, strategy), scaling="constant").to_ray()
        ranks = {"a": round(share * 8)}
        return ResultRow(f"{strategy}_{phase}", strategy, strategy, "finished", config=config, phase=phase, seed=8,
                         final_eval_loss=loss, ranks=ranks)  # fmt: skip

    rows = [row("baseline", 0.25, 4.0), row("adalora", 0.5, 3.0), row("adalora", 1.0, 3.1, "confirm")]
    frozen = controls(TWO, rows)[0]
    assert (frozen.params, frozen.budget_share) == ({"ranks": "8"}, 1.0)


@pytest.mark.parametrize(
    ("flags", "right"), [(["--official"], "drop one"), (["--budget", "2047"], "at least 2048"), ([], "")]
)
def test_a_plan_that_two_objectives_cannot_have_is_refused_and_one_that_they_can_is_shown(flags, right, capsys):
    code = main(["--objective", "loss,params", "--dry-run", *flags])
    captured = capsys.readouterr()
    if right:
        assert (code, len(captured.err.splitlines())) == (2, 1)
        assert "--objective loss,params" in captured.err
        assert right in captured.err
    else:
        assert code == 0
        assert "budget: 32,768 of" in captured.out
        assert "searched: each trial's budget, from 4,096\n" in captured.out


FLAGS = (
    "--objective", "loss,params", "--budget-rank", "8", "--num-samples", "12", "--strategies", "baseline",
    "--strategies", "linear_decay", "--confirm-seeds", "1", "--name", "front",
)  # fmt: skip


@pytest.mark.search
def test_a_search_of_two_objectives_leaves_a_front_and_keeps_within_the_budget(drawing, small, tmp_path, capsys):
    assert main([*small, *FLAGS, "--runs-dir", str(tmp_path)]) == 0
    check_front(capsys.readouterr().err, tmp_path / "front")


@pytest.mark.process
@pytest.mark.thorough
def test_so_it_does_where_all_is_real(front):
    check_front(front[0].stderr, front[1])


def check_front(errors, folder):
    assert errors == ""
    rows = [row for row in read_rows(folder / "rows.jsonl") if row.phase == "search"]
    assert len(rows) == 12
    for row in rows:
        share = row.budget_share
        assert row.trainable_parameters <= share * 4096
        assert f"{row.strategy}_budget{share:.2g}_lr" in row.experiment_name
    sizes = {row.trainable_parameters for row in rows if row.status == "finished"}
    assert max(sizes) == 4096
    assert min(sizes) <= 2048
    report = (folder / "report.md").read_text()
    assert pareto.table(pareto.front(rows)) in report
    assert (folder / "figures" / "pareto.svg").is_file()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    study = optuna.load_study(study_name="front", storage=storage)
    assert {trial.values[1] for trial in study.trials if trial.values} == sizes
