"""Looking at 5, 10, 20 and 40 seeds on simulated searches whose truth is known."""

import functools

import numpy as np
import pytest

from analysis.stats.outlook import Outlook
from benchmarks.looks import looked_at, rows

SEARCHES = 300
MANY, UNLIKE = (100,) * 100, tuple(100 * windows for windows in (39, 12, 9, 8, 7, 6, 5, 4, 3, 2, 2, 1, 1, 1))


@functools.cache
def searched(effect, tokens, strategies):
    return list(looked_at(effect, tokens, strategies, SEARCHES))


def wins(searches):
    return np.mean([any(item.answer == "win" for item in search) for search in searches])


def holds(searches, effect):
    return np.mean([item.interval[0] <= effect <= item.interval[1] for search in searches for item in search])


@pytest.mark.parametrize(("tokens", "strategies"), [((), 1), ((), 3), (UNLIKE, 3)])
def test_without_an_effect_at_most_five_searches_of_a_hundred_say_win(tokens, strategies):
    assert wins(searched(0.0, tokens, strategies)) <= 0.05
    assert holds(searched(0.0, tokens, strategies), 0.0) >= 1 - 0.05 / strategies - 0.01


def test_looks_of_which_each_may_err_in_five_percent_err_in_more():
    shared = searched(0.0, (), 3)
    alone = list(looked_at(0.0, (), 3, SEARCHES, share=lambda seeds, looks: 0.05))
    assert holds(shared, 0.0) > 1 - 0.05 / 3 > holds(alone, 0.0)


def test_an_interval_holds_whatever_made_seeds_end():
    assert holds(searched(-0.01, (), 1), -0.01) >= 0.95 - 0.02


def test_a_large_effect_is_seen_at_the_first_look_and_a_small_one_later():
    large, small = ([item for search in searched(effect, (), 1) for item in search] for effect in (-0.05, -0.005))
    assert np.mean([item.seeds for item in large]) < 6 < np.mean([item.seeds for item in small]) < 40
    assert np.mean([item.answer == "win" for item in large]) == 1
    assert np.mean([item.answer in {"win", "tie"} for item in small]) > 0.9


def test_few_unlike_texts_are_what_lacks_and_more_seeds_are_not_trained_for_it():
    ended = [item for search in list(looked_at(-0.01, UNLIKE, 1, 60)) for item in search]
    lacking = [item for item in ended if item.ahead == Outlook.DOCUMENTS]
    assert len(lacking) > len(ended) / 2
    assert np.mean([item.seeds for item in lacking]) < 10


def test_the_table_has_a_line_for_each_effect_and_texts():
    lines = list(rows({"none": 0.0}, ((), MANY), 1, 3))
    assert [line.count("|") for line in lines] == [12] * 4
    assert lines[2].startswith("| none (0) | 0 | ")
    assert lines[3].startswith("| none (0) | 100 | ")
