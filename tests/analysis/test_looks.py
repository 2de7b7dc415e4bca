"""What each look at confirmation runs may err, and whether more seeds would tell."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.results.trial_config import LOOKS, TrialConfig
from analysis.stats.looks import error_at, error_of, levels, spent
from analysis.stats.outlook import Outlook, outlook
from analysis.stats.statistics import Paired
from tests.fakes.rows import assess, runs, words

AUTO = {"config": {"looks": "5,10,20,40"}}


def noisy(mean, deviation, seeds):
    """Return differences of exactly this mean and standard deviation."""
    ends = deviation * math.sqrt((seeds - 1) / (2 * (seeds // 2)))
    return tuple(mean + (ends if seed % 2 else -ends) * (seed < 2 * (seeds // 2)) for seed in range(seeds))


def test_looks_share_five_percent_by_the_seeds_that_they_see():
    # ln(1 + 1.71828 / 8) = .1946, of a quarter .3574, of half .6201, of all 1
    assert [round(error_at(seeds, LOOKS) / 0.05, 4) for seeds in LOOKS] == [0.1946, 0.1628, 0.2627, 0.3799]
    assert sum(error_at(seeds, LOOKS) for seeds in LOOKS) == pytest.approx(0.05)
    assert (spent(0), spent(1)) == (0, pytest.approx(1))


def test_seeds_on_their_way_to_a_look_are_judged_by_its_share_and_without_looks_all_is_there():
    assert error_at(3, LOOKS) == error_at(5, LOOKS)
    assert error_at(6, LOOKS) == error_at(10, LOOKS)
    assert error_at(1000, LOOKS) == error_at(40, LOOKS)
    assert error_at(3, ()) == 1 - 0.95


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8, unique=True).map(sorted))
def test_whatever_the_looks_they_err_in_five_percent_together(looks):
    assert sum(error_at(seeds, looks) for seeds in looks) == pytest.approx(0.05)
    assert all(error_at(seeds, looks) > 0 for seeds in looks)


def test_rows_alone_say_which_looks_there_are_and_every_one_that_ran_counts():
    five = [*runs("eva", 4.0, 4.0, 4.0, 4.0, None, **AUTO)]
    assert error_of(five) == error_at(5, LOOKS)
    assert error_of([*five, *runs("eva", *[4.0] * 6, **AUTO)]) == error_at(10, LOOKS)
    assert error_of(runs("eva", 4.0, 4.0)) == 1 - 0.95


@pytest.mark.parametrize("text", ["10,5", "5,5", "0,5", "five", ""])
def test_looks_that_no_search_can_have_are_refused(text):
    with pytest.raises(ValueError, match=r"looks must rise|invalid literal"):
        TrialConfig.from_ray({"strategy": "eva", "looks": text})


def test_looks_come_back_from_the_nested_form():
    config = TrialConfig("eva", looks=LOOKS)
    assert config.to_ray() == {"strategy": "eva", "looks": "5,10,20,40"}
    assert TrialConfig.from_ray(config.to_ray()) == config


def test_an_interval_under_looking_is_wider_by_the_share_of_its_look():
    differences = noisy(-0.01, 0.01, 5)
    alone, looked = Paired(differences), Paired(differences, error=error_at(5, LOOKS))
    # t of four degrees of freedom: 2.7764 at 97.5 %, 4.6404 at 1 - .0097284 / 2
    assert alone.interval[1] + 0.01 == pytest.approx(2.7764 * 0.01 / math.sqrt(5), rel=1e-4)
    assert looked.interval[1] + 0.01 == pytest.approx(4.6404 * 0.01 / math.sqrt(5), rel=1e-3)
    assert looked.level == pytest.approx(1 - 0.0097284, abs=1e-7)


@pytest.mark.parametrize(("mean", "margin"), [(-0.0103, 0.001), (0.0, 0.001), (0.009, 0.001), (0.0, 0.0039)])
def test_a_strategy_goes_on_while_more_seeds_may_tell(mean, margin):
    # at 40 seeds the half-width is t(1 - .018994 / 2, 39) = 2.449 times .01 / sqrt(40), .00387;
    # the mean of 40 lies within t(.9, 4) = 1.5332 times .01 sqrt(1 / 5 - 1 / 40), .00641, of that of five
    assert outlook(Paired(noisy(mean, 0.01, 5)), margin, False, LOOKS) == Outlook.OPEN


def test_a_strategy_is_hopeless_where_no_mean_to_be_expected_would_give_an_answer():
    # after 20 of 40: within t(.9, 19) = 1.3277 times .01 sqrt(1 / 20 - 1 / 40) = .0021 of 0, and .00387 would be needed
    pairs = Paired(noisy(0.0, 0.01, 20))
    assert outlook(pairs, 0.001, False, LOOKS) == Outlook.SEEDS
    assert outlook(pairs, 0.0038, False, LOOKS) == Outlook.SEEDS
    assert outlook(pairs, 0.0039, False, LOOKS) == Outlook.OPEN, "a tie lies ahead"
    assert outlook(pairs, 0.0019, False, LOOKS) == Outlook.SEEDS
    assert outlook(pairs, 0.0019, True, LOOKS) == Outlook.OPEN, "with fewer parameters -.0021 would be enough"
    assert outlook(Paired(noisy(0.0017, 0.01, 20)), 0.001, False, LOOKS) == Outlook.SEEDS
    assert outlook(Paired(noisy(0.0019, 0.01, 20)), 0.001, False, LOOKS) == Outlook.OPEN, "a loss lies ahead"
    assert outlook(Paired(noisy(-0.0019, 0.01, 20)), 0.001, False, LOOKS) == Outlook.OPEN, "a win lies ahead"


def test_where_seeds_would_tell_and_texts_do_not_test_documents_are_what_lacks():
    # ten documents of ten tokens that differ by .1 nats, the same at every seed: no seed helps
    by_seed = [[10 * (-0.003 + (0.1 if document % 2 else -0.1) + shift) for document in range(10)]
               for shift in (-1e-4, 1e-4) * 5]  # fmt: skip
    pairs = Paired(tuple(sum(row) / 100 for row in by_seed), 1, (10,) * 10, tuple(map(tuple, by_seed)))
    assert outlook(pairs, 0.001, False, LOOKS) == Outlook.DOCUMENTS
    assert (
        outlook(Paired((0.1, 0.1), documents=(5,), by_document=((0.5,),) * 2), 1.0, False, LOOKS) == Outlook.DOCUMENTS
    )


def test_runs_without_a_result_leave_it_open():
    assert outlook(Paired((0.1,)), 0.001, False, LOOKS) == Outlook.OPEN


def test_a_verdict_is_of_the_plain_runs_that_its_look_saw():
    plain = runs("baseline", 4.0, 4.1, 4.2, 4.0, 4.1, None, **AUTO)
    better = runs("eva", 3.9, 4.0001, 4.1, 3.9, 4.0001, **AUTO)
    (verdict,) = assess([*plain, *better]).verdicts
    assert (verdict.answer, verdict.diverged, verdict.pairs.seeds) == ("win", 0, 5)
    assert verdict.pairs.error == error_at(5, LOOKS)
    (fixed,) = assess([*runs("baseline", 4.0, 4.1, None), *runs("eva", 3.9, 4.0001)]).verdicts
    assert fixed.diverged == 1


def test_the_report_says_at_which_looks_seeds_ended_and_why():
    plain = runs("baseline", *[4.0, 4.1] * 5, **AUTO)
    better = runs("eva", 3.9, 4.0001, 3.9, 4.0001, 3.9, **AUTO)
    unclear = runs("composite", *[3.99, 4.11] * 5, **AUTO)
    text = words([*plain, *better, *unclear])
    assert "- **Looks at seeds:** after 5, 10, 20, 40 seeds" in text
    assert "Seeds: eva 5 (win); composite 10 (more may tell)." in text
    # 1 - .0097284 / 2 and 1 - .0081403 / 2
    assert "the 2 together right 95 % of the time, 99.51 to 99.59 % each." in text
    assert "Looks at seeds" not in words([*runs("baseline", 4.0, 4.1), *runs("eva", 4.0, 4.2)])
    assert levels([Paired((0.0,)), Paired((0.1,))]) == "95 %"
