"""A strategy that cannot differ from plain LoRA on the chosen matrices is named."""

import pytest

from strategies import STRATEGIES, RankBudget
from strategies.base import Site
from trainables.data.splits import DataSource
from trainables.models.coverage import Coverage
from trainables.spec import Workload
from tuning.preflight.always_plain import always_plain

EVIDENCE = {"gradient": {"a": 1.0, "b": 1.0, "c": 1.0}}


def workload(*sites, params=72, evidence=None):
    coverage = Coverage(tuple(sites))
    return Workload("m", DataSource(), RankBudget(params), 1, 4, 1, 2.0, coverage=coverage, evidence=evidence or {})


def sites(*kinds):
    """One matrix of each kind, in blocks of their own."""
    return [Site(name, 6, 6, depth, kind) for depth, (name, kind) in enumerate(zip("abc", kinds, strict=False))]


@pytest.mark.parametrize(
    ("chosen", "plain"),
    [
        (sites("attention", "attention", "attention"), ("attention_heavy",)),
        (sites("mlp", "mlp"), ("attention_heavy",)),
        (sites("attention"), ("linear_decay", "attention_heavy")),
        (sites("attention", "mlp", "attention"), ()),
    ],
)
def test_attention_alone_and_one_block_leave_some_strategies_nothing_to_choose(chosen, plain):
    assert always_plain(("baseline", "linear_decay", "attention_heavy", "composite"), workload(*chosen)) == plain


def test_what_is_not_measured_yet_or_trains_otherwise_is_not_named():
    assert always_plain(tuple(STRATEGIES), workload(*sites("attention"))) == (
        "linear_decay", "attention_heavy", "plain", "random", "layer_lr",
    )  # fmt: skip


def test_rates_by_depth_differ_as_soon_as_there_are_two_blocks():
    names = ("baseline", "layer_lr")
    assert always_plain(names, workload(Site("a", 6, 6, 3, "mlp"), Site("b", 6, 6, 3, "mlp"))) == ("layer_lr",)
    assert always_plain(names, workload(Site("a", 6, 6, 3, "mlp"), Site("b", 6, 6, 4, "mlp"))) == ()
