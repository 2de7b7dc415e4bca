"""The verdict on simulated searches whose truth is known: how often it is right, and which effects it detects."""

import functools

import numpy as np
import pytest

from analysis.stats import statistics
from benchmarks.power import ALIKE, FEW_LONG, UNLIKE, covers, simulated

pytestmark = pytest.mark.xdist_group("power")  # several tests judge the same searches
SEARCHES = 200
SEEDS = (3, 5, 10)
TEXTS = {"alike": ALIKE, "few long": FEW_LONG, "unlike": UNLIKE}


@pytest.fixture(scope="module", autouse=True)
def nothing_twice():
    """Cache quantiles and skip the needed seeds: both take most of the time, and neither is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "stdtrit", functools.cache(statistics.stdtrit))
        patch.setattr(statistics.Paired, "seeds_needed", lambda self, margin, fewer: None)
        yield


@functools.cache
def judged_searches(effect, seeds, texts, strategies=3, **chance):
    return list(simulated(effect, seeds, TEXTS[texts], strategies, SEARCHES, **chance))


GRID = [(texts, seeds) for texts in TEXTS for seeds in SEEDS]
CLOSEST = [("few long", 5), ("few long", 10), ("alike", 10), ("unlike", 10)]
"""Where the fewest intervals hold."""


def quick(cases, chosen):
    """Have only the chosen ones of some cases run in `make test`."""
    return [case if case in chosen else pytest.param(*case, marks=pytest.mark.thorough) for case in cases]


@pytest.mark.parametrize(
    ("texts", "seeds", "effect"),
    [
        *quick([(*case, 0.0) for case in GRID], [(*case, 0.0) for case in CLOSEST]),
        *quick([(*case, -0.05) for case in GRID], [("unlike", 3, -0.05)]),
    ],
)
def test_intervals_hold_for_other_seeds_and_texts_as_often_as_they_promise(effect, seeds, texts):
    # what seeds and texts share is counted twice, so more may hold; the rest is the chance of 200 searches
    assert covered(judged_searches(effect, seeds, texts), effect) >= 1 - 0.05 / 3 - 0.01
    assert covered(judged_searches(effect, seeds, texts, strategies=1), effect) >= 0.95 - 0.03


FEW = [(3, 4, 0.008), (2, 4, 0.004), (3, 4, 0.004), (3, 6, 0.008)]


@pytest.mark.parametrize(("seeds", "strategies", "run"), quick(FEW, FEW[:2]))
def test_few_seeds_among_many_texts_promise_no_more_than_they_hold(seeds, strategies, run):
    # the error of the seeds is about as large as that of the texts, and of far fewer degrees of freedom
    searches = judged_searches(0.0, seeds, "alike", strategies, run_sd=run, run_text_sd=0.0)
    assert covered(searches, 0.0) >= 1 - 0.05 / strategies - 0.01
    assert np.mean([any(item.answer == "win" for item in search) for search in searches]) <= 0.05


def covered(searches, effect):
    return np.mean([covers(item.pairs.interval, effect) for search in searches for item in search])


@pytest.mark.parametrize(("texts", "seeds"), quick(GRID, CLOSEST))
def test_without_an_effect_hardly_any_search_says_win(seeds, texts):
    wins = [any(item.answer == "win" for item in search) for search in judged_searches(0.0, seeds, texts)]
    assert np.mean(wins) <= 0.05


def test_seeds_alone_would_call_many_a_null_effect_something():
    intervals = [search[0].pairs.bootstrap() for search in judged_searches(0.0, 10, "unlike")[:100]]
    assert np.mean([covers(interval, 0.0) for interval in intervals]) < 0.7


WIN_SHARES = [(-0.01, 3, 0.05, 0.2), (-0.01, 10, 0.5, 0.75), (-0.05, 3, 0.9, 1)]


@pytest.mark.parametrize(("effect", "seeds", "least", "most"), WIN_SHARES)
def test_an_effect_is_found_as_often_as_the_log_says(effect, seeds, least, most):
    answers = [item.answer for search in judged_searches(effect, seeds, "alike") for item in search]
    assert least <= answers.count("win") / len(answers) <= most
    assert "loss" not in answers
