"""The names in PEFT's configuration, held against PEFT's own matching."""

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from tests.zoo import skeleton
from trainables.adapters import naming
from trainables.models.matrices import coverage_of

BLOCKS = [f"model.layers.{number}" for number in range(12)]
MODULES = [name for block in BLOCKS for name in (block, f"{block}.attn.q", f"{block}.attn.proj", f"{block}.mlp.proj")]


def resolved(fields, modules):
    """Return what PEFT makes of the fields: site -> (rank, alpha)."""
    config = peft.LoraConfig(**fields)
    values = {}
    for name in modules:
        if check_target_module_exists(config, name):
            rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), name), config.r)
            alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
            values[name] = (rank, alpha)
    return values


@st.composite
def allocations(draw):
    """Ranks and alphas of some sites, among which names occur that end alike."""
    names = [name for name in MODULES if name.count(".") > 2] + ["head.proj", "tower.layers.1.attn.q"]
    sites = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    return {name: draw(st.integers(1, 4)) for name in sites}, {
        name: draw(st.sampled_from([4.0, 8.0])) for name in sites
    }


@given(allocations(), st.sampled_from(["short", "exact"]))
def test_peft_makes_of_the_fields_exactly_what_was_planned(allocation, way):
    ranks, alphas = allocation
    modules = [*MODULES, "head", "head.proj", "tower.layers.1.attn.q", "tower.proj"]
    fields = naming.short(ranks, alphas, modules) if way == "short" else naming.exact(ranks, alphas, modules)
    assert resolved(fields, modules) == {name: (rank, alphas[name]) for name, rank in ranks.items()}


def test_plain_lora_is_a_rank_an_alpha_and_a_few_names():
    sites = [name for name in MODULES if name.count(".") > 2]
    assert naming.short(dict.fromkeys(sites, 8), dict.fromkeys(sites, 16.0), MODULES) == {
        "r": 8, "lora_alpha": 16.0, "target_modules": ["proj", "q"], "rank_pattern": {}, "alpha_pattern": {},
    }  # fmt: skip


def test_an_ending_that_others_have_too_is_made_longer():
    ranks = {f"{block}.mlp.proj": 2 for block in BLOCKS}
    assert naming.endings(ranks, MODULES) == ["mlp.proj"]
    assert naming.endings(["model.layers.1.attn.q"], MODULES) == ["1.attn.q"]


def test_sites_of_one_rank_share_a_pattern():
    ranks = {f"{block}.attn.q": 1 + (number == 3 or number == 10) for number, block in enumerate(BLOCKS)}
    ranks["model.layers.3.mlp.proj"] = 2
    fields = naming.short(ranks, dict.fromkeys(ranks, 4.0), MODULES)
    assert (fields["r"], fields["rank_pattern"]) == (1, {r"(3|10)\.attn\.q|3\.mlp\.proj": 2})


def test_where_two_blocks_go_by_one_number_names_are_given_in_full():
    ranks = {"a.1.q": 2, "b.1.q": 4, "a.2.q": 2, "c": 2}
    fields = naming.short(ranks, dict.fromkeys(ranks, 4.0), ["a", "b", *ranks])
    assert fields["rank_pattern"] == {r"^b\.1\.q": 4}


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("llama", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
        ("gpt2", ["c_attn", "c_fc", "c_proj"]),
    ],
)
def test_a_real_model_is_named_as_people_name_it(kind, targets):
    assert _of_model(kind)["target_modules"] == targets


def test_a_vision_tower_whose_layers_go_by_the_same_names_is_not_meant():
    assert all(ending.endswith("proj") for ending in _of_model("gemma3")["target_modules"])


def _of_model(kind):
    """Return the fields of plain LoRA on all of a model's sites, which PEFT resolves to just these."""
    model = skeleton(kind)
    names = [site.name for site in coverage_of(model).sites]
    modules = [name for name, _ in model.named_modules()]
    fields = naming.short(dict.fromkeys(names, 4), dict.fromkeys(names, 8.0), modules)
    assert resolved(fields, modules) == dict.fromkeys(names, (4, 8.0))
    return fields
