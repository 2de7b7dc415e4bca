import pytest

from strategies import RankBudget
from trainables.base_model import load
from trainables.data import DataSource
from trainables.footprint import fitting, slots_that_fit
from trainables.spec import Workload

GIB = 2**30


@pytest.mark.parametrize(
    ("one", "two", "available", "slots"),
    [
        (5 * GIB, 6 * GIB, 20 * GIB, 13),  # 17 GiB may be taken: 5 for the first, 1 for each other
        (5 * GIB, 6 * GIB, 200 * GIB, 16),
        (5 * GIB, 9 * GIB, 8 * GIB, 1),
        (5 * GIB, 5 * GIB, 20 * GIB, 16),
    ],
)
def test_trials_fit_as_long_as_a_seventh_of_the_memory_is_left(one, two, available, slots):
    assert fitting(one, two, available, most=16) == slots


def test_a_small_model_is_measured_and_fits_often(tiny_gpt2, tiny_text):
    source = DataSource(str(tiny_text), train_examples=16, validation_examples=8, test_examples=8, max_length=32)
    budget = RankBudget.like_uniform(2, load(str(tiny_gpt2)).sites)
    workload = Workload(str(tiny_gpt2), source, budget, epochs=1, batch_size=4, reports=1, scale=2.0)
    assert slots_that_fit(workload, most=3) == 3
