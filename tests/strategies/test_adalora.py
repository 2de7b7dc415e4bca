import dataclasses

import pytest

from strategies import AdaLora, RankBudget, Site, allocate


def test_phases_leave_something_to_prune_in_however_short_a_trial_is():
    assert dataclasses.astuple(AdaLora(start=0.1, final=0.5).phases(1600)) == (160, 800, 2)
    for steps in range(1, 40):
        phases = AdaLora(start=0.3, final=0.6).phases(steps)
        assert 0 <= phases.start < steps - phases.final <= steps


def test_the_start_is_a_whole_rank_as_far_as_the_dimensions_allow():
    sites = (Site("a", 64, 64, 0, "attention"), Site("b", 4, 64, 0, "mlp"))
    strategy = AdaLora(initial=2.5)
    budget = strategy.start_budget(sites, RankBudget(params=2 * (128 + 68) + 10))
    ranks = allocate(strategy.scores(sites, {}), sites, budget).ranks
    assert ranks == {"a": 6, "b": 4}  # 2.05 * 2.5 = 5.1, and b has 4 rows


@pytest.mark.parametrize("wrong", [{"initial": 0.5}, {"orthogonal": -1}, {"start": 0.5, "final": 0.5}])
def test_wrong_hyperparameters_are_named(wrong):
    with pytest.raises(ValueError, match=f"adalora/{next(iter(wrong))}"):
        AdaLora(**wrong)
