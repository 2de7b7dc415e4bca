"""A sweep of ours in the benchmarks is a search like any other."""

import pytest

from benchmarks import sweeps, workloads
from strategies import RankBudget
from trainables.base_model import shape_of
from trainables.data import DataSource, load_splits
from trainables.spec import Workload

pytestmark = pytest.mark.search


def check(short):
    configs = workloads.configs(2)
    clock = sweeps.ours(short, configs)
    assert len(clock.ends) == 2
    assert clock.each(0, 1) > 0
    configs[1]["strategy"] = "none such"
    with pytest.raises(RuntimeError, match="1 of 2 trials ended well"):
        sweeps.ours(short, configs)


def test_a_sweep_notes_the_end_of_each_trial_and_refuses_one_that_failed(fake_hosts, tiny_gpt2, tiny_text):
    model, source = str(tiny_gpt2), DataSource(str(tiny_text), train_examples=1, validation_examples=1, test_examples=1)
    budget = RankBudget.like_uniform(2, shape_of(model).sites)
    check(Workload(model, source, budget, epochs=1, batch_size=1, reports=1, scale=2.0,
                   splits=load_splits(source, model)))  # fmt: skip


@pytest.mark.thorough
def test_so_does_one_that_trains(shared_ray):
    check(workloads.nothing("cpu"))
