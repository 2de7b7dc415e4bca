"""A trial's configuration: the forms it has, and that nobody but itself takes them apart."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.results.trial_config import Phase, TrialConfig

ROOT = Path(__file__).parents[2]
SEARCHED = TrialConfig("linear_decay", "t003", params={"slope": -0.5}, learning_rate=0.01, scaling="constant", seed=7)

FORMS = [
    (
        SEARCHED,
        {"strategy": "linear_decay", "seed": 7, "scaling": "constant", "trial_id": "t003",
         "linear_decay": {"slope": -0.5, "learning_rate": 0.01}},
        "linear_decay_lr0.01_t003",
    ),
    (
        replace(SEARCHED, budget_share=0.3333),
        {"strategy": "linear_decay", "seed": 7, "scaling": "constant", "trial_id": "t003",
         "linear_decay": {"slope": -0.5, "learning_rate": 0.01, "budget_share": 0.3333}},
        "linear_decay_budget0.33_lr0.01_t003",
    ),
    (
        TrialConfig("shuffled", "shuffled_t003_seed8", Phase.CONFIRM, {"slope": -0.5}, 0.01, control_of="linear_decay",
                    source="t003", seed=8),
        {"strategy": "shuffled", "seed": 8, "source": "t003", "phase": "confirm", "trial_id": "shuffled_t003_seed8",
         "shuffled": {"of": "linear_decay", "slope": -0.5, "learning_rate": 0.01}},
        "shuffled_t003_seed8",
    ),
    (
        TrialConfig("baseline", "baseline_rank8", official="baseline_rank8", learning_rate=0.002, seed=0),
        {"strategy": "baseline", "seed": 0, "official": "baseline_rank8", "learning_rate": 0.002,
         "trial_id": "baseline_rank8"},
        "baseline_rank8",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "nested", "name"), FORMS)
def test_it_has_one_nested_form_and_one_name(config, nested, name):
    assert config.to_ray() == nested
    assert TrialConfig.from_ray(nested) == config
    assert config.name == name


numbers = st.floats(1e-6, 1e6)
configs = st.builds(
    TrialConfig,
    strategy=st.sampled_from(["baseline", "eva", "shuffled"]),
    trial_id=st.sampled_from(["", "t1"]),
    phase=st.sampled_from([Phase.SEARCH, Phase.CONFIRM]),
    params=st.dictionaries(st.sampled_from(["slope", "rho", "ranks"]), numbers | st.text(min_size=1)),
    learning_rate=st.none() | numbers,
    budget_share=st.none() | numbers,
    scaling=st.none() | st.just("alpha/r"),
    seed=st.none() | st.integers(0, 9),
    control_of=st.none() | st.just("eva"),
    source=st.none() | st.just("t1"),
)


@given(configs)
def test_nothing_of_it_is_lost_on_the_way_through_ray(config):
    assert TrialConfig.from_ray(config.to_ray()) == config


def test_all_of_the_budget_is_given_only_where_a_share_was_searched():
    assert SEARCHED.with_whole_budget() is SEARCHED
    assert replace(SEARCHED, budget_share=0.5).with_whole_budget() == replace(SEARCHED, budget_share=1.0)


def test_an_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="rehearsal"):
        TrialConfig.from_ray({"strategy": "baseline", "phase": "rehearsal"})


def taken_apart(tree):
    """Yield the lines on which something called a configuration is subscripted or asked for a key."""
    for node in ast.walk(tree):
        asked = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
        value = (
            node.value if isinstance(node, ast.Subscript) else asked.value if asked and asked.attr == "get" else None
        )
        name = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
        if name in {"config", "new_config", "trial_config"}:
            yield node.lineno


def test_a_configuration_that_is_taken_apart_is_seen():
    source = "config['a']\nrow.config.get('a')\nconfigs['t1']\nrow.trial_config.name\n(config or {})\n"
    assert list(taken_apart(ast.parse(source))) == [1, 2]


def test_nobody_else_takes_a_configuration_apart():
    for package in ("strategies", "trainables", "tuning", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "trial_config.py":
                assert not [*taken_apart(ast.parse(path.read_text()))], path
