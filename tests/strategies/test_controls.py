"""Controls keep an allocation's scores and cost, and change only whose they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import CONTROLS, STRATEGIES, RankBudget, allocate
from strategies.base import Site
from strategies.controls import Frozen, Inverted, Shuffled
from strategies.linear_decay import LinearDecay

SITES = tuple(
    Site(f"h.{depth}.{kind}", 64, 64 if kind == "attention" else 256, depth, kind)
    for depth in range(6)
    for kind in ("attention", "mlp")
)
BUDGET = RankBudget.like_uniform(4, SITES)
DECAY = LinearDecay(slope=1.0)


@given(st.integers(0, 2**32))
def test_a_shuffle_deals_the_same_scores(seed):
    before, after = DECAY.scores(SITES, {}), Shuffled(DECAY, seed).scores(SITES, {})
    assert list(after) == list(before)
    assert sorted(after.values()) == sorted(before.values())


def test_a_shuffle_is_another_for_another_seed_and_the_same_for_the_same():
    first, again, other = (Shuffled(DECAY, seed).scores(SITES, {}) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != DECAY.scores(SITES, {})


@given(st.floats(-1, 1))
def test_inverting_a_slope_turns_it_around(slope):
    inverted = Inverted(LinearDecay(slope=slope)).scores(SITES, {})
    assert inverted == pytest.approx(LinearDecay(slope=-slope).scores(SITES, {}), abs=1e-9)


@pytest.mark.parametrize("control", CONTROLS.values())
def test_a_control_costs_what_its_strategy_costs(control):
    original = allocate(DECAY.scores(SITES, {}), SITES, BUDGET)
    controlled = allocate(control(DECAY, 3).scores(SITES, {}), SITES, BUDGET)
    assert controlled.ranks != original.ranks
    assert controlled.params <= BUDGET.params
    assert controlled.params == pytest.approx(original.params, rel=0.01)


class Units:
    """Scores units of rank."""

    def scores(self, sites, evidence):
        return {"a": (4.0, 3.0), "b": (1.0,), "c": (2.0, 1.0)}


def test_scores_of_units_are_inverted_unit_by_unit():
    # highest + lowest is 4 + 1 for the first unit and 3 + 0 for the second
    assert Inverted(Units()).scores((), {}) == {"a": (1.0, 0.0), "b": (4.0, 3.0), "c": (3.0, 2.0)}
    assert sorted(Shuffled(Units(), 1).scores((), {}).values()) == [(1.0,), (2.0, 1.0), (4.0, 3.0)]


def test_frozen_ranks_are_given_as_they_are_found():
    ranks = {site.name: number % 5 for number, site in enumerate(SITES)}
    cost = sum(site.cost * ranks[site.name] for site in SITES)
    scores = Frozen(" ".join(map(str, ranks.values()))).scores(SITES, {})
    assert allocate(scores, SITES, RankBudget(cost)).ranks == ranks


def test_frozen_ranks_of_another_model_are_refused():
    with pytest.raises(ValueError, match="2 ranks, the model has 12"):
        Frozen("1 2").scores(SITES, {})


def test_no_control_is_searched():
    assert not {*CONTROLS, Frozen.name} & STRATEGIES.keys()
