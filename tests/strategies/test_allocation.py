import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import RankAllocation, RankBudget, Site, allocate

DIMENSIONS = st.integers(64, 4096)


@st.composite
def site_lists(draw):
    shapes = draw(st.lists(st.tuples(DIMENSIONS, DIMENSIONS), min_size=1, max_size=24))
    return tuple(
        Site(f"h.{i}", d_in, d_out, i, "mlp" if i % 2 else "attention") for i, (d_in, d_out) in enumerate(shapes)
    )


@st.composite
def problems(draw):
    sites = draw(site_lists())
    scores = {site.name: draw(st.floats(0, 100)) for site in sites}
    low = draw(st.integers(0, 2))
    budget = RankBudget(
        params=draw(st.integers(1, 12)) * sum(s.cost for s in sites) + draw(st.integers(0, 5000)),
        low=min(low, 1),
        high=draw(st.integers(2, 64)),
    )
    return sites, scores, budget


@given(site_lists(), st.integers(1, 16))
def test_equal_scores_reproduce_plain_lora(sites, rank):
    allocation = allocate(dict.fromkeys((s.name for s in sites), 0.37), sites, RankBudget.like_uniform(rank, sites))
    assert set(allocation.ranks.values()) == {rank}
    assert allocation.params == rank * sum(site.cost for site in sites)


@given(problems())
def test_the_budget_and_the_bounds_hold_and_the_cost_is_counted_right(problem):
    sites, scores, budget = problem
    allocation = allocate(scores, sites, budget)
    assert allocation.params == sum(allocation.ranks[s.name] * s.cost for s in sites) <= budget.params
    assert all(budget.low <= rank <= budget.high for rank in allocation.ranks.values())


@given(problems())
def test_at_most_one_percent_or_less_than_one_unit_is_left(problem):
    sites, scores, budget = problem
    allocation = allocate(scores, sites, budget)
    remainder = budget.params - allocation.params
    open_sites = [s for s in sites if allocation.ranks[s.name] < min(budget.high, s.d_in, s.d_out)]
    assert remainder <= 0.01 * budget.params or all(site.cost > remainder for site in open_sites)


@given(problems())
def test_no_site_with_a_better_claim_is_left_out(problem):
    """Taking the last unit from a weaker claim never pays for a unit of a stronger one."""
    sites, scores, budget = problem
    allocation = allocate(scores, sites, budget)
    remainder, largest = budget.params - allocation.params, max(scores.values())
    claims = {name: round(score / largest, 12) if largest else 1.0 for name, score in scores.items()}
    for strong in sites:
        if allocation.ranks[strong.name] >= min(budget.high, strong.d_in, strong.d_out):
            continue
        next_claim = claims[strong.name] / (2 * allocation.ranks[strong.name] + 1)
        for weak in sites:
            rank = allocation.ranks[weak.name]
            if rank > budget.low and claims[weak.name] / (2 * rank - 1) < next_claim:
                assert strong.cost > remainder + weak.cost


@given(problems())
def test_the_same_problem_has_the_same_answer(problem):
    sites, scores, budget = problem
    reordered = dict(reversed(scores.items()))
    assert allocate(scores, sites, budget) == allocate(reordered, sites, budget)


def test_ranks_are_proportional_shares_worked_by_hand():
    sites = tuple(Site(f"h.{i}", 64, 64, i, "mlp") for i in range(3))
    allocation = allocate({"h.0": 3, "h.1": 1, "h.2": 0}, sites, RankBudget(params=8 * 128))
    assert allocation.ranks == {"h.0": 6, "h.1": 2, "h.2": 0}


def test_a_score_of_zero_gets_rank_only_when_more_than_one_percent_would_be_left():
    sites = tuple(Site(f"h.{i}", 64, 64, i, "mlp") for i in range(2))
    capped = allocate({"h.0": 1, "h.1": 0}, sites, RankBudget(params=8 * 128, high=5))
    assert capped.ranks == {"h.0": 5, "h.1": 3}


def test_scores_of_units_are_taken_largest_first_and_what_they_leave_goes_to_all_alike():
    sites = tuple(Site(f"h.{i}", 64, 64, i, "mlp") for i in range(2))
    scores = {"h.0": (5.0, 4.0, 1.0), "h.1": (3.0, 2.0)}
    allocated = [allocate(scores, sites, RankBudget(units * 128)).ranks for units in range(1, 8)]
    assert [tuple(ranks.values()) for ranks in allocated] == [(1, 0), (2, 0), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)]


@given(site_lists(), st.integers(1, 8))
def test_claims_worked_out_beforehand_give_what_the_score_gives(sites, rank):
    scores = {site.name: math.pi ** (number / 24) for number, site in enumerate(sites)}  # no two claims are equal
    unit_scores = {name: tuple(score / (2 * k + 1) for k in range(64)) for name, score in scores.items()}
    budget = RankBudget.like_uniform(rank, sites)
    assert allocate(unit_scores, sites, budget) == allocate(scores, sites, budget)


def test_a_budget_given_as_a_rank_is_a_budget_and_caps_nothing():
    sites = (Site("h.0", 256, 256, 0, "mlp"), Site("h.1", 256, 256, 1, "mlp"))
    assert RankBudget.like_uniform(64, sites) == RankBudget(2 * 64 * 512)
    ranks = allocate({"h.0": 3.0, "h.1": 1.0}, sites, RankBudget.like_uniform(64, sites)).ranks
    assert ranks == {"h.0": 96, "h.1": 32}


def test_plain_lora_has_no_more_rank_at_a_site_than_the_site_can_have():
    sites = (Site("h.0", 64, 64, 0, "mlp"), Site("h.1", 2, 64, 0, "mlp"))
    budget = RankBudget.like_uniform(8, sites)
    assert budget.params == 8 * 128 + 2 * 66
    assert allocate(dict.fromkeys(("h.0", "h.1"), 1.0), sites, budget).ranks == {"h.0": 8, "h.1": 2}
    with pytest.raises(ValueError, match="at most 64"):
        RankBudget.like_uniform(65, sites)


def test_the_digest_does_not_depend_on_the_order_of_sites():
    assert RankAllocation({"a": 1, "b": 2}, 3).digest == RankAllocation({"b": 2, "a": 1}, 3).digest
    assert RankAllocation({"a": 1, "b": 2}, 3).digest != RankAllocation({"a": 2, "b": 1}, 3).digest


@pytest.mark.parametrize(
    ("scores", "budget", "culprit"),
    [
        ({"h.0": 1.0}, RankBudget(127), "too small for any rank"),
        ({"h.0": 1.0}, RankBudget(200, low=2), "too small for rank 2"),
        ({"h.0": math.nan}, RankBudget(1000), "h.0"),
        ({"h.0": -1.0}, RankBudget(1000), "h.0"),
        ({"h.0": (1.0, -1.0)}, RankBudget(1000), "h.0"),
        ({}, RankBudget(1000), "h.0"),
        ({"h.0": 1.0, "other": 1.0}, RankBudget(1000), "other"),
    ],
)
def test_a_problem_without_an_answer_names_the_culprit(scores, budget, culprit):
    with pytest.raises(ValueError, match=culprit):
        allocate(scores, (Site("h.0", 64, 64, 0, "mlp"),), budget)


@pytest.mark.parametrize("bounds", [(-1, 4), (5, 4)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="low"):
        RankBudget(10, *bounds)
