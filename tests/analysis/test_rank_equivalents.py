"""What a difference is worth in parameters: worked by hand, and on simulated curves whose truth is known."""

import functools
import math

import numpy as np
import pytest

from analysis.stats import rank_equivalents, statistics
from analysis.stats.rank_equivalents import Losses, Worth, falling, worth

HALF_TO_DOUBLE, QUARTER_TO_FOUR = (-1.0, 0.0, 1.0), (-2.0, -1.0, 0.0, 1.0, 2.0)
SIMULATED = 300
PER_DOUBLING = 0.0073  # tinker-cookbook's public sweep, Llama-1B, from rank 16 to 64
SHARED = np.array([0.03, -0.01, 0.02])  # what a seed shifts in all runs alike
CURVES = {
    "flat": lambda x: 0.0 * x,
    "log-linear": lambda x: -PER_DOUBLING * x,
    "saturating": lambda x: 0.003 * (2.0 ** (-3 * x) - 1),
}


def worth_of(sizes, losses):
    losses = Losses(np.asarray(losses))
    return worth(sizes, losses, losses.contrast({len(sizes): 1.0, sizes.index(0): -1.0}))


def without_noise(sizes, curve, loss):
    return [[value + shared for shared in SHARED] for value in (*map(curve, sizes), loss)]


def test_a_hundredth_of_a_nat_at_73_ten_thousandths_a_doubling_is_worth_2_6_times_the_parameters():
    # .01 / .0073 = 1.37 doublings, and 2 ** 1.37 = 2.58
    losses = without_noise(QUARTER_TO_FOUR, CURVES["log-linear"], -0.01)
    of_a_search = worth_of(QUARTER_TO_FOUR, losses)
    assert of_a_search.times == pytest.approx(2.584, abs=1e-3)
    assert (of_a_search.low, of_a_search.high) == pytest.approx((2.584, 2.584), abs=2e-3)
    assert of_a_search.sentence == "worth 2.6 times the parameters (2.6 to 2.6)"


def test_beyond_the_sizes_that_were_trained_nothing_is_extrapolated():
    better = worth_of(HALF_TO_DOUBLE, without_noise(HALF_TO_DOUBLE, CURVES["log-linear"], -0.01))
    assert better == Worth(None, 2.0, None, 0.5, 2.0, 3)
    assert better.sentence == "worth more than 2 times the parameters"
    worse = worth_of(HALF_TO_DOUBLE, without_noise(HALF_TO_DOUBLE, CURVES["log-linear"], 0.01))
    assert (worse.times, worse.low, worse.high) == (None, None, 0.5)
    assert worse.sentence == "worth less than 0.5 times the parameters"


def test_the_noise_of_the_curves_own_points_is_in_the_interval():
    # the strategy and plain LoRA differ by .004 at every seed; only what a doubling gives is uncertain
    quiet = without_noise(HALF_TO_DOUBLE, CURVES["log-linear"], -0.004)
    noisy = np.array(quiet)
    noisy[0] += [0.001, -0.001, 0.0]
    noisy[2] -= [0.001, -0.001, 0.0]
    narrow, wide = worth_of(HALF_TO_DOUBLE, quiet), worth_of(HALF_TO_DOUBLE, noisy)
    assert (wide.times, narrow.times) == pytest.approx((2 ** (4 / 7.3),) * 2, abs=1e-3)
    # at w doublings the contrast is -.004 + .0073 w, its half-width 4.302653 * .001 w / sqrt(3) = .002484 w
    assert (wide.low, wide.high) == pytest.approx((2 ** (4 / (7.3 + 2.484)), 2 ** (4 / (7.3 - 2.484))), abs=2e-3)


def test_an_interval_lies_above_1_where_the_verdicts_lies_below_0_and_only_there():
    rng = np.random.default_rng(0)
    above = below = 0
    for _ in range(100):
        losses = Losses(rng.normal(0, 0.002, (4, 5)) + np.array([[0.006], [0.0], [-0.004], [-0.002]]))
        at_budget = losses.contrast({3: 1.0, 1: -1.0})
        of_a_search = worth(HALF_TO_DOUBLE, losses, at_budget)
        assert ((of_a_search.low or 0) >= 1) == (at_budget.interval[1] < 0)
        above, below = above + (at_budget.interval[1] < 0), below + (at_budget.interval[1] >= 0)
    assert min(above, below) > 10


def test_where_doublings_gain_less_and_less_the_interval_has_both_the_slope_before_and_the_slope_after():
    # half to whole gains .008, whole to double .002; .001 is an eighth of the one and a half of the other
    losses = without_noise(HALF_TO_DOUBLE, {-1.0: 0.008, 0.0: 0.0, 1.0: -0.002}.get, -0.001)
    of_a_search = worth_of(HALF_TO_DOUBLE, losses)
    assert (of_a_search.low, of_a_search.high) == pytest.approx((2**0.125, 2**0.5), abs=2e-3)
    assert of_a_search.times == pytest.approx(2**0.5, abs=1e-3)


def test_a_win_is_worth_more_than_1_and_a_loss_less_whatever_the_noise_of_other_sizes():
    noise = np.array([0.02, -0.02, 0.0])
    losses = without_noise(HALF_TO_DOUBLE, CURVES["log-linear"], -0.004)
    noisy_half = np.array(losses) + np.outer([1, 0, 0, 0], noise)
    assert worth_of(HALF_TO_DOUBLE, noisy_half).low >= 1
    noisy_double = np.array(losses) + np.outer([0, 0, 1, 0], noise) + np.array([[0], [0], [0], [0.008]])
    assert worth_of(HALF_TO_DOUBLE, noisy_double).high <= 1


@pytest.mark.parametrize(
    ("worth_there", "sentence"),
    [
        (Worth(1.7, 1.2, 1.94, 0.5, 2, 5), "worth 1.7 times the parameters (1.2 to 1.9)"),
        (Worth(1.7, 1.2, None, 0.5, 2, 5), "worth 1.7 times the parameters (1.2 to more than 2)"),
        (Worth(0.9, None, 1.2, 0.5, 2, 5), "worth 0.9 times the parameters (less than 0.5 to 1.2)"),
        (Worth(None, 1.2, None, 0.5, 2, 5), "worth more than 2 times the parameters (1.2 to more than 2)"),
        (Worth(None, None, 0.8, 0.5, 2, 5), "worth less than 0.5 times the parameters (less than 0.5 to 0.8)"),
        (
            Worth(1.0, None, None, 0.5, 2, 5),
            "these seeds cannot tell what it is worth: plain LoRA of 0.5 to 2 times the parameters may be as good",
        ),
    ],
)
def test_what_it_is_worth_is_said_in_words(worth_there, sentence):
    assert worth_there.sentence == sentence


def test_of_one_of_several_plain_loras_it_is_said_which_has_the_parameters():
    unknown = Worth(1.0, None, None, 0.5, 2, 5)
    assert unknown.in_words(" on all matrices").endswith(
        "plain LoRA on all matrices of 0.5 to 2 times the parameters may be as good"
    )


def test_too_little_says_nothing_of_worth():
    one_seed = Losses(np.array([[4.1], [4.0], [3.9], [3.95]]))
    assert worth(HALF_TO_DOUBLE, one_seed, one_seed.contrast({3: 1.0, 1: -1.0})) is None
    assert worth_of((0.0,), without_noise((0.0,), CURVES["flat"], -0.01)) is None


def test_documents_that_differ_make_the_interval_wider():
    means = without_noise(HALF_TO_DOUBLE, CURVES["log-linear"], -0.004)
    by_document = np.array(means)[:, :, None] * 100 + np.array([[[0.0, 0.0]], [[0.0, 0.0]], [[0, 0]], [[0.01, -0.01]]])
    apart = Losses(np.asarray(means), (100, 100), by_document)
    of_a_search = worth(HALF_TO_DOUBLE, apart, apart.contrast({3: 1.0, 1: -1.0}))
    # the contrast's deviation is .0001 a token over two documents, and Student's t with 1 degree of freedom 12.706
    half = 12.706205 * 0.0001 / PER_DOUBLING
    w = 4 / 7.3
    assert (math.log2(of_a_search.low), math.log2(of_a_search.high)) == pytest.approx((w - half, w + half), abs=2e-3)


def test_a_curve_that_rises_is_pooled_until_it_falls():
    # 1 and 3 become 2, and 2 is no rise beside 2; then 0
    assert falling([5.0, 1.0, 3.0, 0.0]) == [5.0, 2.0, 2.0, 0.0]
    assert falling([1.0, 2.0, 6.0]) == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("name", "doublings"),
    [("flat", 0.0), ("log-linear", 0.0), ("log-linear", 0.8), ("saturating", 0.0), ("saturating", 0.8)],
)
def test_intervals_of_95_percent_hold_in_at_least_93(name, doublings, seeds, monkeypatch):
    monkeypatch.setattr(statistics, "stdtrit", functools.cache(statistics.stdtrit))
    monkeypatch.setattr(rank_equivalents, "HALVINGS", 7)  # to a hundredth of a doubling
    rng, holds, curve = np.random.default_rng(seeds), 0, CURVES[name]
    means = np.array([[curve(size)] for size in (*HALF_TO_DOUBLE, doublings)])
    for _ in range(SIMULATED):
        losses = means + rng.normal(0, 0.02, seeds) + rng.normal(0, 0.001, (4, seeds))
        of_a_search = worth_of(HALF_TO_DOUBLE, losses)
        low, high = of_a_search.low or 0.0, of_a_search.high or math.inf
        holds += low <= 1.005 * 2**doublings and high >= 2**doublings / 1.005
    assert holds / SIMULATED >= 0.93
