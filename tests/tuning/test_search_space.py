"""What a strategy is drawn from: its range of learning rates, a scaling, and when two configurations are the same."""

import optuna
import pytest

from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import Space, fixed_part, searched_rates
from tuning.trials.sampling import effective_key, make_sampler


def space_of(plan):
    return Space(plan, "baseline", searched_rates(plan))


@pytest.mark.parametrize(
    ("tried", "best", "low", "high"),
    [
        ([], None, 1, 1),
        ([0.01, 0.039], 0.01, 1, 1),
        ([0.01, 0.039], 0.039, 1, 2),  # the best lies at .98 of the way up
        ([0.0023], None, 2, 1),
        ([0.01, 0.039, 0.15], 0.15, 1, 3),  # .9 of the way up a range that was widened before
        ([0.01, 0.039, 0.15], 0.039, 1, 2),
        ([0.0027], 0.0027, 2, 1),
        ([0.0046], 0.0046, 1, 1),  # it lies at .22 of the way up
    ],
)
def test_a_range_of_rates_is_widened_where_the_best_lies_in_its_outer_fifth(tried, best, low, high):
    ends = searched_rates(SearchPlan(learning_rate=0.01), tried, best)
    assert ends == pytest.approx((0.01 / 4**low, 0.01 * 4**high))


def test_one_rate_stays_one_rate():
    assert searched_rates(SearchPlan(learning_rate=0.01, learning_rate_factor=1), [0.01], 0.01) == (0.01, 0.01)


def test_no_range_leaves_what_a_learning_rate_may_be():
    low, high = searched_rates(SearchPlan(learning_rate=20.0), [20.0, 70.0], 70.0)
    assert (low, high < 100.0) == (5.0, True)
    assert high > 70.0


def test_start_up_trials_leave_most_of_a_search_to_the_model():
    spaces = [space_of(SearchPlan(num_samples=number)) for number in (2, 20, 100, 900)]
    assert [make_sampler(space, 0)._n_startup_trials for space in spaces] == [1, 1, 5, 10]


def test_a_searched_scaling_is_part_of_the_space_and_a_fixed_one_is_not():
    fixed, searched = SearchPlan(scaling="alpha/r"), SearchPlan(scaling="search")
    trial = optuna.trial.FixedTrial({**fixed_part(searched, "baseline", True), "scaling": "alpha/sqrt(r)"})
    assert space_of(searched)(trial).scaling == "alpha/sqrt(r)"
    assert trial.params["scaling"] == "alpha/sqrt(r)"
    assert space_of(fixed)(optuna.trial.FixedTrial(fixed_part(fixed, "baseline", True))).scaling == "alpha/r"


def test_effective_keys_see_ranks_scales_and_three_digits_of_the_learning_rate():
    key = effective_key({"a": 1, "b": 0}, {"a": 2.0}, 0.01, 0)
    assert key == effective_key({"b": 0, "a": 1}, {"a": 2.0}, 0.010004, 0)
    assert key != effective_key({"a": 0, "b": 1}, {"b": 2.0}, 0.01, 0)
    assert key != effective_key({"a": 1, "b": 0}, {"a": 1.0}, 0.01, 0)
    assert key != effective_key({"a": 1, "b": 0}, {"a": 2.0}, 0.0102, 0)
