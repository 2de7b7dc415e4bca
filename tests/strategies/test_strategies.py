"""The contract of every strategy, and worked values for each."""

import math

import pytest

from analysis.stats import verdicts
from strategies import CONTAINING_PLAIN, RIVALS, STRATEGIES, RankBudget, Site, allocate
from strategies.allocation import units
from strategies.at_random import AtRandom
from strategies.attention_heavy import AttentionHeavy
from strategies.baseline import Baseline
from strategies.composite import Composite
from strategies.empirical import EVIDENCE_KINDS, Empirical
from strategies.eva import Eva
from strategies.geometry import GEOMETRIES
from strategies.layer_lr import LayerLr
from strategies.linear_decay import LinearDecay
from strategies.plain import Plain
from tests import readme

SITES = GEOMETRIES["gpt2"].sites


class Measured(dict):
    """Evidence that has any kind that it is asked for, for strategies that have their own measured."""

    def __missing__(self, kind):
        return self["gradient"]

    def get(self, kind, default=None):
        return self[kind]


EVIDENCE = Measured({kind: {s.name: 1.0 + i for i, s in enumerate(SITES)} for kind in EVIDENCE_KINDS})
EVIDENCE |= {f"explained_variance/{k}": {s.name: 1 / (i + k) for i, s in enumerate(SITES)} for k in range(1, 25)}


class EdgeTrial:
    """Answers every question with one end of its range."""

    def __init__(self, end):
        self.end, self.asked = end, []

    def suggest_float(self, name, low, high, *, log=False):
        self.asked.append(name)
        return (low, high)[self.end]

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return choices[-self.end]


def readme_strategies():
    """Return the examples of docs/strategies.md."""
    for name, code in readme.strategies().items():
        scope: dict = {"__name__": name}
        exec(code, scope)
        yield next(cls for cls in scope.values() if getattr(cls, "name", None) == name)


@pytest.mark.parametrize("cls", [*STRATEGIES.values(), *readme_strategies()], ids=lambda cls: cls.name)
@pytest.mark.parametrize("end", [0, 1])
class TestContract:
    def test_every_point_of_the_space_scores_every_site_and_can_be_spent(self, cls, end):
        strategy = cls.suggest(EdgeTrial(end))
        scores = strategy.scores(SITES, EVIDENCE)
        assert list(scores) == [site.name for site in SITES]
        assert all(math.isfinite(value) and value >= 0 for score in scores.values() for value in units(score))
        budget = RankBudget.like_uniform(8, SITES)
        assert 0.99 * budget.params <= allocate(scores, SITES, budget).params <= budget.params

    def test_the_known_good_point_names_the_searched_parameters(self, cls, end):
        trial = EdgeTrial(end)
        cls.suggest(trial)
        assert set(trial.asked) == set(cls.known_good)
        assert cls.neutral is None or set(trial.asked) == set(cls.neutral)
        assert cls(**cls.known_good).scores(SITES, EVIDENCE)


NEUTRAL = [cls(**cls.neutral) for cls in STRATEGIES.values() if cls.neutral is not None]


@pytest.mark.parametrize("strategy", [Baseline(), *NEUTRAL], ids=lambda strategy: strategy.name)
def test_a_neutral_strategy_is_plain_lora(strategy):
    allocation = allocate(strategy.scores(SITES, {}), SITES, RankBudget.like_uniform(8, SITES))
    assert set(allocation.ranks.values()) == {8}
    assert not strategy.training


def test_who_has_plain_lora_as_a_point_says_so_and_a_verdict_names_the_same_rivals():
    assert set(CONTAINING_PLAIN) == {"linear_decay", "attention_heavy", "composite", "plain", "layer_lr"}
    assert verdicts.RIVALS == RIVALS


@pytest.mark.parametrize(
    ("point", "single"),
    [
        ({}, Baseline()),
        ({"slope": 1.2}, LinearDecay(1.2)),
        ({"log_ratio": -2.0}, AttentionHeavy(-2.0)),
        ({"power": 0.5, "evidence": "activation"}, Empirical("activation", temperature=2.0)),
    ],
)
def test_every_other_strategy_is_a_point_of_the_composite(point, single):
    assert Composite(**point).scores(SITES, EVIDENCE) == pytest.approx(single.scores(SITES, EVIDENCE))


def test_curvature_moves_rank_to_both_ends_or_to_the_middle():
    blocks = sites_in_blocks(3)
    # 6 t^2 - 6 t + 1 is 1, -0.5, 1 at t = 0, 0.5, 1
    assert list(Composite(curvature=1.0).scores(blocks, {}).values()) == [2, 0.5, 2]
    assert list(Composite(curvature=-1.0).scores(blocks, {}).values()) == [0, 1.5, 0]


def test_a_negative_power_favours_sites_of_little_evidence_and_stays_finite():
    blocks = sites_in_blocks(2)
    scores = Composite(power=-1.0).scores(blocks, {"gradient": {"h.0.attn": 0.0, "h.1.attn": 2.0}})
    assert scores == pytest.approx({"h.0.attn": 1e6, "h.1.attn": 0.5})


def sites_in_blocks(blocks):
    return tuple(Site(f"h.{i}.attn", 64, 64, i, "attention") for i in range(blocks))


@pytest.mark.parametrize(
    ("slope", "expected"), [(1, [2, 1, 0]), (-1, [0, 1, 2]), (0.5, [1.5, 1, 0.5]), (1.5, [2.5, 1, 0])]
)
def test_linear_decay_is_linear_in_depth_and_signed(slope, expected):
    assert list(LinearDecay(slope).scores(sites_in_blocks(3), {}).values()) == expected


def test_a_model_of_one_block_has_no_depth_to_decay_over():
    assert LinearDecay(1.0).scores(sites_in_blocks(1), {}) == {"h.0.attn": 1.0}


@pytest.mark.parametrize("log_ratio", [math.log(4), -math.log(4)])
def test_attention_heavy_has_the_ratio_it_is_asked_for(log_ratio):
    sites = (Site("a", 8, 8, 0, "attention"), Site("m", 8, 8, 0, "mlp"))
    scores = AttentionHeavy(log_ratio).scores(sites, {})
    assert scores["a"] / scores["m"] == pytest.approx(math.exp(log_ratio))


@pytest.mark.parametrize(
    ("modules", "names"), [("all", "0a 0m 1a 1m"), ("mlp", "0m 1m"), ("attention", "0a 1a"), ("upper_half", "1a 1m")]
)
def test_plain_puts_one_rank_on_a_set_of_matrices(modules, names):
    kinds = (("a", "attention"), ("m", "mlp"))
    sites = tuple(Site(f"{block}{name}", 8, 8, block, kind) for block in (0, 1) for name, kind in kinds)
    allocation = allocate(Plain(modules).scores(sites, {}), sites, RankBudget.like_uniform(2, sites))
    assert list(allocation.adapted) == names.split()
    assert set(allocation.adapted.values()) == {8 // len(names.split())}


def test_plain_knows_no_other_sets():
    with pytest.raises(ValueError, match="plain/modules"):
        Plain("lower_half")


def test_random_allocations_are_the_same_on_any_machine_and_others_for_another_draw():
    blocks = sites_in_blocks(2)
    # random.Random("0.5").gauss(0, 1) twice
    assert list(AtRandom(0.5, 1.0).scores(blocks, {}).values()) == pytest.approx([0.7149568, 0.1125346], rel=1e-6)
    assert AtRandom(0.5000001).scores(blocks, {}) != AtRandom(0.5).scores(blocks, {})


def test_depth_is_counted_among_the_chosen_blocks():
    top = [Site(f"h.{depth}.up", 8, 8, depth, "mlp") for depth in (20, 21, 22)]
    scores, factors = LinearDecay(slope=1.5).scores(top, {}), LayerLr(slope=1.5).rate_factors(top)
    assert scores == factors == {"h.20.up": 2.5, "h.21.up": 1.0, "h.22.up": 0.0}
    assert LayerLr(slope=1.5).rate_factors(top[:1]) == {"h.20.up": 1.0}


def test_rates_by_depth_have_the_slope_that_ranks_have_and_leave_the_ranks_alone():
    blocks = sites_in_blocks(3)
    assert list(LayerLr(0.5).rate_factors(blocks).values()) == [1.5, 1, 0.5]
    assert list(LayerLr(-1.5).rate_factors(blocks).values()) == [0, 1, 2.5]
    assert set(LayerLr(0.5).scores(blocks, {}).values()) == {1.0}
    assert (bool(LayerLr(0.5).training), LayerLr(0.5).training == LayerLr(0.4).training) == (True, False)


def test_empirical_scores_are_tempered_shares_of_the_mean():
    sites = (Site("a", 8, 8, 0, "attention"), Site("m", 8, 8, 0, "mlp"))
    evidence = {"gradient": {"a": 6.0, "m": 2.0}}
    assert Empirical("gradient", temperature=1).scores(sites, evidence) == {"a": 1.5, "m": 0.5}
    assert Empirical("gradient", temperature=2).scores(sites, evidence)["a"] == pytest.approx(math.sqrt(1.5))


def test_a_strategy_without_its_evidence_says_what_is_missing():
    with pytest.raises(ValueError, match="activation"):
        Empirical("activation").scores(SITES, {"gradient": {}})
    with pytest.raises(ValueError, match="explained variance"):
        Eva().scores(SITES, {"gradient": {}})


@pytest.mark.parametrize("rho", [0.9, 3.1])
def test_eva_refuses_a_rho_for_which_nothing_is_measured(rho):
    with pytest.raises(ValueError, match="eva/rho"):
        Eva(rho)


def test_a_strategy_says_when_its_ranks_are_known():
    decided = {name: STRATEGIES[name].decided() for name in ("baseline", "empirical", "composite", "eva", "adalora")}
    assert decided == {
        "baseline": None, "empirical": "after the evidence is measured", "composite": "after the evidence is measured",
        "eva": "after the evidence is measured", "adalora": "while training",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"evidence": "guess"}, {"temperature": 0}])
def test_empirical_refuses_wrong_parameters(wrong):
    with pytest.raises(ValueError, match="empirical/"):
        Empirical(**wrong)
