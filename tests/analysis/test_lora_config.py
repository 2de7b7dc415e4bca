"""The configuration to paste, run as Python and held against PEFT's own matching."""

import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from analysis.report.lora_config import MOST_LINES, lora_config_code
from tests.fakes.rows import report, run

KINDS = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.experts.3.down_proj"]
NAMES = [f"model.layers.{number}.{kind}" for number in range(12) for kind in KINDS]
STRANGE = ["head", "tower.layers.01.proj", "model.layers.²", 'model.layers.1.a"b{n}']


def resolved(code, names):
    """Return what PEFT makes of the source: site -> (rank, alpha)."""
    scope = {}
    exec(code, scope)
    config = scope["config"]
    assert isinstance(config, peft.LoraConfig)
    keys, alpha_keys = list(config.rank_pattern), list(config.alpha_pattern)
    return {
        name: (config.rank_pattern.get(get_pattern_key(keys, name), config.r),
               config.alpha_pattern.get(get_pattern_key(alpha_keys, name), config.lora_alpha))
        for name in names if check_target_module_exists(config, name)
    }  # fmt: skip


@st.composite
def allocations(draw):
    names = draw(st.lists(st.sampled_from([*NAMES, *STRANGE]), min_size=1, unique=True))
    ranks = {name: draw(st.integers(0, 5)) for name in names} | {names[0]: 3}
    return ranks, {name: draw(st.sampled_from([4.0, 8.0])) for name, rank in ranks.items() if rank}


@given(allocations())
@settings(deadline=None)
def test_peft_makes_of_the_source_exactly_what_was_planned(allocation):
    ranks, alphas = allocation
    planned = {name: (rank, alphas[name]) for name, rank in ranks.items() if rank}
    others = ["model.layers.1", "tower.proj", "other.layers.1.self_attn.q_proj", "lm_head"]
    assert resolved(lora_config_code(ranks, alphas, False), [*NAMES, *STRANGE, *others]) == planned


def test_the_source_has_forty_lines_at_most_with_every_layer_different_at_any_depth():
    for depth in (1, 30, 200):
        names = [f"model.layers.{number}.{kind}" for number in range(depth) for kind in KINDS]
        ranks = {name: place % (depth + 1) for place, name in enumerate(names)}
        alphas = {name: rank * 1.5 for name, rank in ranks.items() if rank}
        code = lora_config_code(ranks, alphas, True)
        assert len(code.splitlines()) <= MOST_LINES == 40
        assert resolved(code, names) == {name: (rank, alphas[name]) for name, rank in ranks.items() if rank}


def test_plain_lora_of_thirty_layers_is_a_line_of_targets_and_no_patterns():
    names = [f"model.layers.{number}.{kind}" for number in range(30) for kind in KINDS[:3]]
    code = lora_config_code(dict.fromkeys(names, 8), dict.fromkeys(names, 16.0), False)
    kinds = '"self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"'
    assert f'        *(f"model.layers.{{n}}.{{m}}" for n in range(30) for m in [{kinds}]),\n    ],' in code
    assert "rank_pattern={},\n    alpha_pattern={},\n)" in code


def test_a_winner_without_parameters_or_with_alphas_of_some_sites_alone_has_its_section_all_the_same():
    text = report([run("baseline", 1, 4.0, phase="search", trainable_parameters=None)])
    winner = text.partition("## Winner")[2].partition("\n## ")[0]
    assert "### Ranks by layer and matrix" in winner
    assert "None" not in winner
    partly = run("baseline", 1, 4.0, phase="search", ranks={"h.0.a": 2, "h.1.a": 2}, alphas={"h.0.a": 4.0})
    assert "LoraConfig" not in report([partly])
    assert "LoraConfig" not in report([run("baseline", 1, 4.0, phase="search", ranks={"h.0.a": 0}, alphas={})])


@pytest.mark.parametrize("far", ["9999999", "99999999999", "9" * 5000])
def test_a_layer_of_any_number_is_a_line_and_no_list_of_all_before_it(far):
    ranks = dict.fromkeys(("h.0.q", "h.1.q", f"h.{far}.q"), 2)
    source = lora_config_code(ranks, dict.fromkeys(ranks, 4.0), False)
    assert f"{far}" in source
    assert "range" not in source.replace("range(2)", "")
