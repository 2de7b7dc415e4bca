"""Intervals worked by hand, and the five answers."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import Paired, judge

MARGIN = 0.01
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


def test_texts_that_differ_make_the_interval_wider_where_seeds_do_not():
    # two texts of 100 tokens, -0.01 and -0.03 a token: without one the mean is the other's, so the jackknife's variance
    # is (0.01 ** 2 + 0.01 ** 2) / 2, with one degree of freedom, of which Student's t is 12.706 at 97.5 %
    pairs = Paired((-0.02, -0.02, -0.02), documents=((-1.0, 100), (-3.0, 100)))
    assert pairs.interval == pytest.approx((-0.02 - 0.127062, -0.02 + 0.127062), rel=1e-5)


def test_a_text_of_more_tokens_weighs_more_and_counts_as_fewer_texts():
    # without the first the mean is -0.05, without the second -0.01, with both -0.02: the variance is half of
    # 0.03 ** 2 + 0.01 ** 2; 400 ** 2 / (300 ** 2 + 100 ** 2) = 1.6 effective texts are taken as one degree of freedom
    low, high = Paired((-0.02, -0.02), documents=((-3.0, 300), (-5.0, 100))).interval
    assert high - low == pytest.approx(2 * 12.7062047 * math.sqrt(0.0005), rel=1e-6)


def test_seeds_and_texts_add_up():
    # seeds: deviation 0.01, variance 0.0001 / 3 with 2 degrees of freedom; texts: 0.0001 with 1, as above
    low, high = Paired((-0.01, -0.02, -0.03), documents=((-1.0, 100), (-3.0, 100))).interval
    variance = 0.0001 / 3 + 0.0001
    freedom = variance**2 / ((0.0001 / 3) ** 2 / 2 + 0.0001**2)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * math.sqrt(variance), rel=1e-6)


def test_one_text_says_nothing_about_others_and_equal_differences_leave_no_doubt():
    assert Paired((-0.02, -0.021), documents=((-2.0, 100),)).interval is None
    assert Paired((-0.02, -0.02)).interval == (-0.02, -0.02)


def test_the_bootstrap_stays_within_what_was_seen_and_repeats():
    pairs = Paired((-0.01, -0.02, -0.03, 0.01))
    low, high = pairs.bootstrap()
    assert -0.03 <= low < pairs.mean < high <= 0.01
    assert pairs.bootstrap() == (low, high)
    wider = Paired(pairs.differences, comparisons=5).bootstrap()
    assert wider[0] < low < high < wider[1]


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


@pytest.mark.parametrize("mean", [0.0, 0.001])
def test_the_seeds_that_would_be_enough_for_a_tie_are_enough(mean):
    rng = np.random.default_rng(1)
    needed = Paired(tuple(_exactly(rng, 5, mean=mean, deviation=0.01))).seeds_needed(MARGIN)
    told = [judge(Paired(tuple(rng.normal(mean, 0.01, needed))), MARGIN, 100, 100) for _ in range(SEARCHES)]
    assert 0.75 < told.count("tie") / SEARCHES < 0.92


def test_no_seeds_are_enough_where_texts_differ_too_much():
    differences = (-0.009, -0.010, -0.011)
    assert Paired(differences).seeds_needed(MARGIN) is not None
    assert Paired(differences, documents=((-2.0, 100), (0.0, 100), (-1.0, 100))).seeds_needed(MARGIN) is None


def test_seeds_beyond_reason_are_not_a_number():
    rng = np.random.default_rng(1)
    assert Paired(tuple(_exactly(rng, 3, mean=0.005, deviation=1.0))).seeds_needed(MARGIN) is None
    assert Paired((0.1,)).seeds_needed(MARGIN) is None


def _exactly(rng, count, mean, deviation):
    """Draw values whose own mean and deviation are these."""
    values = rng.normal(size=count)
    return (values - values.mean()) / values.std(ddof=1) * deviation + mean
