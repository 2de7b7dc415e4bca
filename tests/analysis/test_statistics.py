"""Intervals worked by hand, the five answers, and simulated searches whose truth is known."""

import math

import numpy as np
import pytest

from analysis.statistics import Paired, judge

MARGIN = 0.01
SEEDS = (3, 5, 10)
NOISE = 0.01  # spread of a paired difference in the simulations, in nats
SEARCHES = 2000


def test_the_interval_of_three_differences_is_students():
    pairs = Paired((-0.01, -0.02, -0.03))
    # mean -0.02, deviation 0.01, and Student's t with 2 degrees of freedom is 4.3027 at 97.5 %
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert pairs.interval == pytest.approx((-0.02 - half, -0.02 + half), rel=1e-6)


def test_more_comparisons_make_every_interval_wider():
    # with 5 comparisons each has 1 % to err: t with 2 degrees of freedom at 99.5 % is 9.9248
    low, high = Paired((-0.01, -0.02, -0.03), comparisons=5).interval
    assert high - low == pytest.approx(2 * 9.924843 * 0.01 / math.sqrt(3), rel=1e-6)


def test_the_bootstrap_stays_within_what_was_seen_and_repeats():
    pairs = Paired((-0.01, -0.02, -0.03, 0.01))
    low, high = pairs.bootstrap()
    assert -0.03 <= low < pairs.mean < high <= 0.01
    assert pairs.bootstrap() == (low, high)


@pytest.mark.parametrize(
    ("differences", "params", "answer"),
    [
        ((-0.020, -0.021, -0.022), 100, "win"),
        ((-0.020, -0.021, -0.022), 50, "win"),
        ((0.001, 0.002, 0.003), 90, "non-inferior with fewer parameters"),
        ((0.0041, 0.0042, 0.0043), 90, "non-inferior with fewer parameters"),
        ((0.0041, 0.0042, 0.0043), 96, "loss"),  # 4 % fewer is the rounding of ranks
        ((0.001, -0.001, 0.0), 100, "tie"),
        ((0.020, 0.021, 0.022), 100, "loss"),
        ((0.020, 0.021, 0.022), 50, "loss"),
        ((0.02, -0.03, 0.01), 100, "cannot tell"),
        ((0.02, -0.03, 0.01), 50, "cannot tell"),
        ((-0.02,), 100, "cannot tell"),
        ((), 100, "cannot tell"),
    ],
)
def test_each_answer_has_its_case(differences, params, answer):
    assert judge(Paired(differences), MARGIN, params, 100) == answer


def test_a_difference_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Paired((0.1, math.nan))


def test_the_seeds_that_would_be_enough_are_enough():
    rng = np.random.default_rng(1)
    seen = Paired(tuple(_exactly(rng, 3, mean=-0.01, deviation=0.01)))
    needed = seen.seeds_needed(MARGIN)
    told = [judge(Paired(tuple(rng.normal(-0.01, 0.01, needed))), MARGIN, 100, 100) for _ in range(SEARCHES)]
    assert 0.75 < told.count("win") / SEARCHES < 0.9
    fewer = [judge(Paired(tuple(rng.normal(-0.01, 0.01, needed // 2))), MARGIN, 100, 100) for _ in range(SEARCHES)]
    assert fewer.count("win") / SEARCHES < 0.6


def test_seeds_beyond_reason_are_not_a_number():
    rng = np.random.default_rng(1)
    assert Paired(tuple(_exactly(rng, 3, mean=0.005, deviation=1.0))).seeds_needed(MARGIN) is None
    assert Paired((0.1,)).seeds_needed(MARGIN) is None


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("effect", [0.0, -0.01, -0.05])
def test_intervals_cover_the_truth_as_often_as_they_promise(seeds, effect):
    covered = np.mean([_covers(pairs.interval, effect) for pairs in _simulated(seeds, effect, 1)])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_the_bootstrap_misses_the_truth_at_three_seeds_and_so_does_not_decide():
    covered = np.mean([_covers(pairs.bootstrap(), 0.0) for pairs in _simulated(3, 0.0, 1)[:300]])
    assert covered < 0.85


@pytest.mark.parametrize("seeds", SEEDS)
def test_without_an_effect_hardly_any_search_says_win(seeds):
    strategies = 3
    said = [_simulated(seeds, 0.0, strategies, stream) for stream in range(strategies)]
    wins = [any(judge(p, MARGIN, 100, 100) == "win" for p in together) for together in zip(*said, strict=True)]
    assert np.mean(wins) <= 0.05


@pytest.mark.parametrize(("seeds", "power"), [(3, 0.5), (5, 0.98), (10, 0.99)])
def test_a_large_effect_is_found(seeds, power):
    wins = [judge(pairs, MARGIN, 100, 100) == "win" for pairs in _simulated(seeds, -0.05, 3)]
    assert np.mean(wins) >= power


def _simulated(seeds, effect, comparisons, stream=0):
    rng = np.random.default_rng([seeds, stream])
    return [Paired(tuple(rng.normal(effect, NOISE, seeds)), comparisons) for _ in range(SEARCHES)]


def _covers(interval, truth):
    return interval[0] <= truth <= interval[1]


def _exactly(rng, count, mean, deviation):
    """Draw values whose own mean and deviation are these."""
    values = rng.normal(size=count)
    return (values - values.mean()) / values.std(ddof=1) * deviation + mean
