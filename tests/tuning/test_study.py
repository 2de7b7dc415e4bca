import json
import math
from collections import Counter
from dataclasses import replace

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from analysis.results.trial_config import TrialConfig
from strategies import SEARCHED, STRATEGIES, RankBudget
from strategies.geometry import GEOMETRIES
from trainables.spec import TrialSpec
from tuning.callbacks.trial_callback import row_from
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import neutral_point, official_configs
from tuning.state.record import Record
from tuning.trials.asha import make_scheduler
from tuning.trials.fixed_search import FixedSearch
from tuning.trials.optuna_search import StudySearch


def whole(config):
    return json.dumps(replace(config, trial_id="").to_ray(), sort_keys=True)


@pytest.fixture
def begin(tmp_path):
    """A function that begins a search, on a record of its own or on a given one."""

    def begin(plan, key=whole, record=None):
        if record is None:
            folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            record = Record(folder)
        return StudySearch(plan, key, record)

    return begin


@pytest.fixture
def search(begin):
    return begin(SearchPlan(num_samples=20))


def state(search, number):
    return search.study.trials[number]


def finish(search, ray_id, loss=1.0, status="finished"):
    """End a trial as Ray and the harvest do."""
    config = search._record.configs[f"t{int(ray_id) + 1:03d}"] if ray_id.isdigit() else None
    search.on_trial_complete(ray_id, {"eval_loss": loss, "status": status, "report": 4})
    if config is not None:
        last = {"eval_loss": loss, "status": status}
        search._record.ended(row_from(config, last, [{"step": 1, "eval_loss": loss}]))


def test_twenty_trials_are_four_of_each_strategy_with_their_own_learning_rates(search):
    configs = [search.suggest(str(number)) for number in range(20)]
    assert set(Counter(config["strategy"] for config in configs).values()) == {4}
    for config in configs:
        assert 0.0025 <= config[config["strategy"]]["learning_rate"] <= 0.04
    assert len({config[config["strategy"]]["learning_rate"] for config in configs}) > 10


def test_every_strategy_begins_at_its_known_good_point(search):
    for number, name in enumerate(SEARCHED):
        config = search.suggest(str(number))
        assert config["strategy"] == name
        assert config[name] == {**STRATEGIES[name].known_good, "learning_rate": pytest.approx(0.01)}


def trains(config):
    """Stands for what a configuration trains: plain LoRA and the neutral point of a slope train the same."""
    slope = 0.0 if config.strategy == "baseline" else config.params.get("slope", config.strategy)
    return f"{slope} {config.learning_rate} {config.scaling}"


def test_a_strategy_hears_how_plain_loras_two_best_trials_ended_without_training_them_again(begin):
    plan = SearchPlan(num_samples=20, strategies=("baseline", "linear_decay"))
    search = begin(plan, trains)
    for number in range(6):
        search.suggest(str(number))
    for ray_id, loss in (("0", 3.0), ("2", 2.0), ("4", 2.5)):
        finish(search, ray_id, loss)
    plain, other = search.suggest("6"), search.suggest("7")
    assert (plain["strategy"], other["strategy"]) == ("baseline", "linear_decay")
    assert other["linear_decay"]["slope"] != 0
    told = [trial for trial in search.study.trials if "same_as" in trial.user_attrs]
    assert [(trial.user_attrs["same_as"], trial.value, trial.params["linear_decay/slope"]) for trial in told] == [
        ("t003", 2.0, 0.0), ("t005", 2.5, 0.0),
    ]  # fmt: skip
    best = search._record.configs["t003"]
    assert told[0].params["linear_decay/learning_rate"] == best.learning_rate
    for number in range(8, 12):
        search.suggest(str(number))
    assert len([trial for trial in search.study.trials if "same_as" in trial.user_attrs]) == 2
    taken_up = begin(plan, trains, search._record)
    assert [t.params for t in taken_up.study.trials if "same_as" in t.user_attrs] == [t.params for t in told]


@pytest.mark.parametrize("name", [name for name, cls in STRATEGIES.items() if cls.neutral is not None])
def test_the_point_that_is_plain_lora_trains_just_what_plain_lora_does(name):
    sites = GEOMETRIES["gpt2"].sites
    plain = TrialConfig("baseline", "t001", learning_rate=0.013, budget_share=0.5, scaling="alpha/r", seed=3)
    specs = [TrialSpec.from_config(config) for config in (plain, neutral_point(name, plain))]
    allocations = [spec.allocation(sites, RankBudget.like_uniform(8, sites), {}) for spec in specs]
    assert allocations[0] == allocations[1]
    alphas = [spec.alphas(allocations[0], sites, 2.0) for spec in specs]
    assert alphas[0] == alphas[1]
    assert len({(spec.learning_rate, spec.scaling, spec.seed, spec.training) for spec in specs}) == 1


def test_without_the_choice_and_for_strategies_without_such_a_point_nothing_is_told(begin):
    slope = {"strategies": ("baseline", "linear_decay"), "plain_points": False}
    for choices in ({"strategies": ("baseline", "empirical")}, slope):
        search = begin(SearchPlan(num_samples=20, **choices), trains)
        for number in range(5):
            search.suggest(str(number))
        finish(search, "0", 2.0)
        for number in range(5, 10):
            search.suggest(str(number))
        assert not [trial for trial in search.study.trials if "same_as" in trial.user_attrs]


def test_a_search_with_fewer_trials_than_strategies_is_fair_to_one(begin):
    search = begin(SearchPlan(num_samples=6))
    counts = Counter(search.suggest(str(number))["strategy"] for number in range(6))
    assert max(counts.values()) - min(counts.values()) == 1


def test_optuna_hears_the_truth_about_every_end(search):
    for trial_id in ("finished", "stopped", "diverged", "raised"):
        search.suggest(trial_id)
        search.on_trial_result(trial_id, {"eval_loss": 2.5, "report": 3})
    finish(search, "finished", 1.5)
    finish(search, "stopped", 2.0, "running")
    finish(search, "diverged", math.nan, "diverged")
    search.on_trial_complete("raised", None, error=True)
    assert state(search, 0).state == TrialState.COMPLETE
    assert state(search, 0).value == 1.5
    assert state(search, 1).state == TrialState.PRUNED
    assert state(search, 1).intermediate_values == {3: 2.5, 4: 2.0}, "Ray does not pass on the last, at which it ends"
    assert state(search, 2).state == state(search, 3).state == TrialState.FAIL
    assert not [trial for trial in search.study.trials if trial.state == TrialState.RUNNING]


def test_an_intermediate_value_that_is_not_finite_is_not_recorded(search):
    search.suggest("a")
    search.on_trial_result("a", {"eval_loss": math.nan, "report": 1})
    assert state(search, 0).intermediate_values == {}


def test_the_same_effective_configuration_is_not_handed_out_twice(begin):
    """Linear decay's slope rounds to few allocations; here there are four keys in all."""

    def coarse(config):
        return f"{config.strategy}{config.learning_rate > 0.01}"

    search = begin(SearchPlan(num_samples=4, strategies=("baseline", "linear_decay"), seed=1), coarse)
    keys = []
    for number in range(4):
        keys.append(coarse(TrialConfig.from_ray(search.suggest(str(number)))))
        finish(search, str(number), float(number))
    assert len(set(keys)) == 4
    twins = [trial for trial in search.study.trials if "same_as" in trial.user_attrs]
    assert twins
    assert all(trial.value == float(trial.user_attrs["same_as"][1:]) - 1 for trial in twins)
    assert search.suggest("none left") == Searcher.FINISHED
    assert not [trial for trial in search.study.trials if trial.state == TrialState.RUNNING]


def test_a_strategy_that_is_added_begins_at_its_known_good_point_and_catches_up(begin):
    plan = SearchPlan(num_samples=4, strategies=("baseline", "linear_decay"), plain_points=False)
    search = begin(plan)
    for number in range(4):
        search.suggest(str(number))
        finish(search, str(number))
    wider = plan.model_copy(update={"strategies": ("baseline", "linear_decay", "composite"), "num_samples": 9})
    again = begin(wider, record=Record(search._record.run_dir))
    configs = [again.suggest(str(number)) for number in range(4, 9)]
    assert [config["strategy"] for config in configs] == [
        "composite",
        "composite",
        "baseline",
        "linear_decay",
        "composite",
    ]
    assert configs[0]["composite"] == {**STRATEGIES["composite"].known_good, "learning_rate": pytest.approx(0.01)}


def test_a_strategy_without_new_configurations_leaves_its_turns_to_the_others(begin):
    plan = SearchPlan(num_samples=5, strategies=("baseline", "linear_decay"), learning_rate_factor=1)
    search = begin(plan, rounded)
    assert [search.suggest(str(number))["strategy"] for number in range(5)] == ["baseline", *["linear_decay"] * 4]


def test_a_seed_repeats_a_search(begin):
    def configs(seed):
        search = begin(SearchPlan(num_samples=12, seed=seed))
        handed_out = []
        for number in range(12):
            handed_out.append(search.suggest(str(number)))
            finish(search, str(number), (number * 7 % 5) / 5)
        return handed_out

    assert configs(1) == configs(1)
    assert configs(1) != configs(2)


def test_how_a_strategy_is_searched_does_not_depend_on_how_good_the_others_are(begin):
    def rates(advantage):
        plan = SearchPlan(num_samples=60, strategies=("baseline", "linear_decay"), learning_rate_factor=5)
        search, tried = begin(plan), []
        for number in range(60):
            config = search.suggest(str(number))
            name = config["strategy"]
            loss = abs(math.log(config[name]["learning_rate"] / 0.006)) - advantage * (name != "baseline")
            finish(search, str(number), loss)
            if name == "baseline":
                tried.append(config[name]["learning_rate"])
        return tried

    equal = rates(0.0)
    assert equal == rates(10.0)
    late = sorted(abs(math.log(rate / 0.006)) for rate in equal[15:])
    assert late[len(late) // 2] < 0.5, "at random this would be about 0.8"


def test_all_studies_are_shown_as_one(search):
    order = [search.suggest(str(number))["strategy"] for number in range(7)]
    trials = search.study.trials
    assert [trial.params["strategy"] for trial in trials] == order
    assert [trial.number for trial in trials] == list(range(7))
    assert all(f"{trial.params['strategy']}/learning_rate" in trial.params for trial in trials)


def search_with_optimum(begin, optimum, record=None, trials=range(40)):
    """Search where the loss is least at a learning rate, and return the search and the rates that it tried."""
    plan = SearchPlan(num_samples=80, strategies=("baseline", "linear_decay"), learning_rate=0.01, plain_points=False)
    search, tried = begin(plan, record=record), []
    for number in trials:
        config = search.suggest(str(number))
        tried.append(config[config["strategy"]]["learning_rate"])
        finish(search, str(number), math.log(tried[-1] / optimum) ** 2)
    return search, tried


def test_a_search_finds_an_optimum_that_lies_outside_the_range_it_begins_with(begin):
    _, tried = search_with_optimum(begin, 0.1)
    assert max(tried[:4]) <= 0.04
    assert min(abs(math.log(rate / 0.1)) for rate in tried) < 0.2


def test_a_search_that_widened_a_range_goes_on_as_it_would_have(begin):
    _, whole = search_with_optimum(begin, 0.1)
    half, first = search_with_optimum(begin, 0.1, trials=range(21))
    _, rest = search_with_optimum(begin, 0.1, Record(half._record.run_dir), range(21, 40))
    assert [*first, *rest] == whole
    assert max(first) > 0.04, "nothing was widened before the cut"


def test_fixed_configurations_come_in_order_and_those_that_ended_are_left_out(tmp_path):
    configs = official_configs(SearchPlan(official=True))
    record = Record(tmp_path)
    search = FixedSearch(configs, record)
    assert [search.suggest("0"), search.suggest("1")] == [config.to_ray() for config in configs[:2]]
    record.ended(row_from(configs[0], {"status": "finished", "eval_loss": 1.0}, ()))
    again = FixedSearch(configs, Record(tmp_path))
    assert len(again) == 4
    assert [again.suggest(str(number)) for number in range(4)] == [config.to_ray() for config in configs[1:]]
    assert again.suggest("5") == FixedSearch.FINISHED
    assert list(Record(tmp_path).configs) == [config.trial_id for config in configs]


PLAN = SearchPlan(num_samples=12, strategies=("baseline", "linear_decay", "attention_heavy"), seed=3)


def rounded(config):
    """A key with few values, so that configurations repeat."""
    numbers = {**config.params, "learning_rate": config.learning_rate}
    return json.dumps([config.strategy, {name: round(value, 2) for name, value in numbers.items()}], sort_keys=True)


def lead(search, trials, first=0):
    """Try trials one by one and return what was handed out; of every third, report and stop."""
    handed_out = []
    for number in range(first, first + trials):
        config = search.suggest(str(number))
        if config == Searcher.FINISHED:
            break
        loss = abs(math.log(config[config["strategy"]]["learning_rate"]) + 4)
        status = "running" if number % 3 == 2 else "finished"
        value = loss + 1 if status == "running" else loss
        if status == "finished":  # Ray passes on no report at which a trial ends
            search.on_trial_result(str(number), {"eval_loss": loss + 1, "report": 1})
        last = {"eval_loss": value, "status": status, "report": 1 if status == "running" else 2}
        search.on_trial_complete(str(number), last)
        history = [{"step": 1, "eval_loss": loss + 1}] + ([{"step": 2, "eval_loss": loss}] if value == loss else [])
        search._record.ended(row_from(TrialConfig.from_ray(config), {"eval_loss": value, "status": status}, history))
        handed_out.append(config)
    return handed_out


@pytest.mark.parametrize("key", [whole, rounded])
@pytest.mark.parametrize("cut", [0, 1, 5, 11])
def test_a_search_that_was_cut_off_goes_on_with_the_configurations_of_an_unbroken_one(begin, key, cut):
    unbroken = lead(begin(PLAN, key), 12)
    search = begin(PLAN, key)
    first = lead(search, cut)
    begun = search.suggest("cut off")
    again = begin(PLAN, key, Record(search._record.run_dir))
    rest = lead(again, 12 - cut, cut)
    assert rest[0] == begun
    assert first + rest == unbroken
    assert [config["trial_id"] for config in unbroken] == [f"t{number:03d}" for number in range(1, 13)]


def test_a_study_made_anew_is_the_study_that_was(begin):
    def told(search):
        return [
            (trial.params, trial.distributions, trial.state, trial.value, trial.user_attrs, trial.intermediate_values)
            for trial in search.study.trials
        ]

    search = begin(PLAN, rounded)
    lead(search, 12)
    again = begin(PLAN, rounded, Record(search._record.run_dir))
    assert told(again) == told(search)
    assert [trial.intermediate_values[1] for trial in again.study.trials if trial.state == TrialState.PRUNED]


def test_what_a_changed_plan_could_not_have_drawn_is_not_told_and_goes_on_all_the_same(begin):
    search = begin(PLAN)
    lead(search, 4)
    begun = search.suggest("cut off")
    again = begin(PLAN.model_copy(update={"learning_rate": 5.0}), whole, Record(search._record.run_dir))
    assert again.study.trials == []
    assert again.suggest("0") == begun
    again.on_trial_complete("0", {"eval_loss": 1.0, "status": "finished", "report": 2})
    assert again.study.trials == []
    new = again.suggest("1")
    assert (new["trial_id"], len(again.study.trials)) == ("t006", 1)


def test_a_strategy_that_had_nothing_new_is_not_asked_again_after_an_interruption(begin):
    plan = SearchPlan(num_samples=5, strategies=("baseline", "linear_decay"), learning_rate_factor=1)
    search = begin(plan, rounded)
    lead(search, 4)
    asked = len(search.study.trials)
    again = begin(plan, rounded, Record(search._record.run_dir))
    assert len(again.study.trials) == asked
    assert again.suggest("5")["strategy"] == "linear_decay"
    assert len(again.study.trials) < asked + 20


def test_a_record_of_somebody_else_may_have_other_ids_and_reports_without_a_loss(begin):
    search = begin(PLAN)
    lead(search, 4)
    record = search._record
    config = TrialConfig.from_ray(search.suggest("4"))
    record.began(replace(config, trial_id="abc"), turn=4)
    record.ended(replace(record.rows["t001"], trial_id="t009", history=({"step": 1},)))
    again = begin(PLAN, whole, Record(record.run_dir))
    assert [again.suggest(str(number))["trial_id"] for number in (5, 6, 7)] == [config.trial_id, "abc", "t010"]
    assert make_scheduler(PLAN, again._record) is not None


def test_a_trial_whose_beginning_the_record_has_lost_is_known_by_its_row(begin):
    search = begin(PLAN)
    lead(search, 4)
    (search._record.run_dir / "record.jsonl").unlink()
    again = begin(PLAN, whole, Record(search._record.run_dir))
    assert len(again.study.trials) == 4
    assert again.suggest("5")["trial_id"] == "t005"
