"""The verdict on simulated searches whose truth is known: how often it is right, and what it sees."""

import functools

import numpy as np
import pytest

from benchmarks.power import ALIKE, UNLIKE, covers, simulated

SEARCHES = 200
SEEDS = (3, 5, 10)


@functools.cache
def found(effect, seeds, texts, strategies=3):
    return list(simulated(effect, seeds, texts, strategies, SEARCHES))


@pytest.mark.parametrize("texts", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("effect", [0.0, -0.05])
def test_intervals_hold_for_other_seeds_and_texts_as_often_as_they_promise(effect, seeds, texts):
    # of three comparisons each is right 98.3 % of the time; what seeds and texts share is counted twice, so more may be
    every = [item.pairs.interval for search in found(effect, seeds, texts) for item in search]
    assert np.mean([covers(interval, effect) for interval in every]) >= 0.965
    alone = [search[0].pairs.interval for search in found(effect, seeds, texts, strategies=1)]
    assert 0.92 <= np.mean([covers(interval, effect) for interval in alone]) <= 0.999


@pytest.mark.parametrize("texts", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("seeds", SEEDS)
def test_without_an_effect_hardly_any_search_says_win(seeds, texts):
    wins = [any(item.answer == "win" for item in search) for search in found(0.0, seeds, texts)]
    assert np.mean(wins) <= 0.05


def test_seeds_alone_would_call_many_a_null_effect_something():
    intervals = [search[0].pairs.bootstrap() for search in found(0.0, 10, UNLIKE)[:100]]
    assert np.mean([covers(interval, 0.0) for interval in intervals]) < 0.7


FOUND = [(-0.01, 3, 0.3, 0.6), (-0.01, 10, 0.6, 0.8), (-0.05, 3, 0.95, 1)]


@pytest.mark.parametrize(("effect", "seeds", "least", "most"), FOUND)
def test_an_effect_is_found_as_often_as_the_log_says(effect, seeds, least, most):
    answers = [item.answer for search in found(effect, seeds, ALIKE) for item in search]
    assert least <= answers.count("win") / len(answers) <= most
    assert "loss" not in answers
