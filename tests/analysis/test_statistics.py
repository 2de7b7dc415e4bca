"""Intervals worked by hand, and the five answers."""

import math

import numpy as np
import pytest

from analysis.stats.statistics import Paired, has_fewer, judge

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
    pairs = Paired((-0.02, -0.02, -0.02), documents=(100, 100), by_document=((-1.0, -3.0),) * 3)
    assert pairs.interval == pytest.approx((-0.02 - 0.127062, -0.02 + 0.127062), rel=1e-5)


def test_a_text_of_more_tokens_weighs_more_and_counts_as_fewer_texts():
    # without the first the mean is -0.05, without the second -0.01, with both -0.02: the variance is half of
    # 0.03 ** 2 + 0.01 ** 2; 400 ** 2 / (300 ** 2 + 100 ** 2) = 1.6 effective texts are taken as one degree of freedom
    low, high = Paired((-0.02, -0.02), documents=(300, 100), by_document=((-3.0, -5.0),) * 2).interval
    assert high - low == pytest.approx(2 * 12.7062047 * math.sqrt(0.0005), rel=1e-6)


def test_seeds_and_texts_add_up_and_neither_lends_the_other_its_degrees_of_freedom():
    # seeds: deviation 0.01, variance 0.0001 / 3 with 2 degrees of freedom, Student's t 4.302653; texts: 0.0001 with 1,
    # as above, and 12.706205
    seeds = ((-0.01, -0.02, -0.03), 1, (100, 100), ((0.0, -2.0), (-1.0, -3.0), (-2.0, -4.0)))
    low, high = Paired(*seeds).interval
    assert high - low == pytest.approx(2 * math.sqrt(4.302653**2 * 0.0001 / 3 + 12.706205**2 * 0.0001), rel=1e-6)


def test_one_text_says_nothing_about_others_and_equal_differences_leave_no_doubt():
    assert Paired((-0.02, -0.021), documents=(100,), by_document=((-2.0,), (-2.1,))).interval is None
    assert Paired((-0.02, -0.02)).interval == (-0.02, -0.02)


def test_the_bootstrap_stays_within_what_was_seen_and_repeats():
    pairs = Paired((-0.01, -0.02, -0.03, 0.01))
    low, high = pairs.bootstrap()
    assert -0.03 <= low < pairs.mean < high <= 0.01
    assert pairs.bootstrap() == (low, high)
    wider = Paired(pairs.differences, comparisons=5).bootstrap()
    assert wider[0] < low < high < wider[1]


@pytest.mark.parametrize(
    ("differences", "fewer", "answer"),
    [
        ((-0.020, -0.021, -0.022), False, "win"),
        ((-0.020, -0.021, -0.022), True, "win"),
        ((0.001, 0.002, 0.003), True, "non-inferior with fewer parameters"),
        ((0.0041, 0.0042, 0.0043), True, "non-inferior with fewer parameters"),
        ((0.0041, 0.0042, 0.0043), False, "loss"),
        ((0.001, -0.001, 0.0), False, "tie"),
        ((0.020, 0.021, 0.022), False, "loss"),
        ((0.020, 0.021, 0.022), True, "loss"),
        ((0.02, -0.03, 0.01), False, "cannot tell"),
        ((0.02, -0.03, 0.01), True, "cannot tell"),
        ((-0.02,), False, "cannot tell"),
        ((), False, "cannot tell"),
    ],
)
def test_each_answer_has_its_case(differences, fewer, answer):
    assert judge(Paired(differences), MARGIN, fewer) == answer


@pytest.mark.parametrize(
    ("params", "others", "fewer"),
    [(95, 100, True), (96, 100, False), (100, 100, False), (None, 100, False), (50, None, False)],
)
def test_four_percent_fewer_is_the_rounding_of_ranks_and_unknown_is_not_fewer(params, others, fewer):
    assert has_fewer(params, others) is fewer


def test_a_difference_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Paired((0.1, math.nan))


def test_the_seeds_that_would_be_enough_are_enough():
    rng = np.random.default_rng(1)
    seen = Paired(tuple(_exactly(rng, 3, mean=-0.01, deviation=0.01)))
    needed = seen.seeds_needed(MARGIN)
    answers = [judge(Paired(tuple(rng.normal(-0.01, 0.01, needed))), MARGIN) for _ in range(SEARCHES)]
    assert 0.75 < answers.count("win") / SEARCHES < 0.9
    answers_of_half = [judge(Paired(tuple(rng.normal(-0.01, 0.01, needed // 2))), MARGIN) for _ in range(SEARCHES)]
    assert answers_of_half.count("win") / SEARCHES < 0.6


@pytest.mark.parametrize("mean", [0.0, 0.001])
def test_the_seeds_that_would_be_enough_for_a_tie_are_enough(mean):
    rng = np.random.default_rng(1)
    needed = Paired(tuple(_exactly(rng, 5, mean=mean, deviation=0.01))).seeds_needed(MARGIN)
    answers = [judge(Paired(tuple(rng.normal(mean, 0.01, needed))), MARGIN) for _ in range(SEARCHES)]
    assert 0.75 < answers.count("tie") / SEARCHES < 0.92


def test_no_seeds_are_enough_where_texts_differ_too_much():
    differences = (-0.009, -0.010, -0.011)
    assert Paired(differences).seeds_needed(MARGIN) is not None
    pairs = Paired(differences, 1, (100,) * 3, ((-1.9, 0.1, -0.9), (-2.0, 0.0, -1.0), (-2.1, -0.1, -1.1)))
    assert pairs.seeds_needed(MARGIN) is None


def test_seeds_are_enough_where_texts_differ_for_each_seed_in_another_way():
    # no text is better than another in the mean, and each differs by 0.06 from seed to seed, so more seeds are enough
    rng = np.random.default_rng(1)
    needed = []
    for _ in range(50):
        text_differences = rng.normal(-0.012, 0.06, (3, 14))
        pairs = Paired(tuple(text_differences.mean(axis=1)), 1, (100,) * 14, tuple(map(tuple, 100 * text_differences)))
        needed.append(pairs.seeds_needed(MARGIN))
    finite = [seeds for seeds in needed if seeds is not None]
    assert len(finite) > 25
    assert 10 < np.median(finite) < 100  # about 0.06 ** 2 / 14 / 0.012 ** 2 * (1.96 + 0.84) ** 2 = 14, counted twice


def test_fewer_seeds_are_enough_not_to_be_worse_with_fewer_parameters():
    # t of 80 % and of 97.5 % times 0.012 / sqrt(n) is to fit into 0.015 instead of 0.005: a ninth as many seeds
    rng = np.random.default_rng(1)
    pairs = Paired(tuple(_exactly(rng, 5, mean=-0.005, deviation=0.012)))
    assert (pairs.seeds_needed(MARGIN), pairs.seeds_needed(MARGIN, fewer=True)) == (48, 8)


def test_seeds_beyond_reason_are_not_a_number():
    rng = np.random.default_rng(1)
    assert Paired(tuple(_exactly(rng, 3, mean=0.005, deviation=1.0))).seeds_needed(MARGIN) is None
    assert Paired((0.1,)).seeds_needed(MARGIN) is None


def _exactly(rng, count, mean, deviation):
    """Draw values of exactly this mean and standard deviation."""
    values = rng.normal(size=count)
    return (values - values.mean()) / values.std(ddof=1) * deviation + mean
