"""An adapter of which nobody knows who wrote it: PEFT is not asked for what no search writes."""

import json

import pytest
import torch
from safetensors.torch import save_file

from trainables.adapters import CONFIG, WEIGHTS, saved_config
from trainables.adapters.saved_config import read_folder

A, B = (f"base_model.model.h.0.attn.lora_{letter}.weight" for letter in "AB")
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["h.0.attn"]}


@pytest.fixture
def saved(tmp_path):
    """A function that writes a configuration, and tensors of rank 2 or those given."""

    def write(config, a=(2, 3), b=(5, 2)):
        (tmp_path / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
        save_file({A: torch.ones(a)} | ({B: torch.ones(b)} if b else {}), tmp_path / WEIGHTS)
        return tmp_path

    return write


def test_ranks_scales_and_targets_are_read(saved):
    adapter = read_folder(saved(PLAIN | {"rank_pattern": {"^h\\.0\\.attn": 2}, "r": 8}))
    assert adapter.ranks == {"h.0.attn": 2}
    assert adapter.scales == {"h.0.attn": 2.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("megatron_core", "antigravity"), ("megatron_config", {"a": 1}), ("auto_mapping", {"base_model_class": "X"}),
        ("use_dora", True), ("use_rslora", True), ("use_qalora", True), ("lora_bias", True), ("bias", "all"),
        ("init_lora_weights", "pissa"), ("modules_to_save", ["lm_head"]), ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 1]]), ("eva_config", {"rho": 2}), ("loftq_config", {"loftq_bits": 4}),
        ("arrow_config", {"a": 1}), ("target_parameters", ["w"]), ("exclude_modules", "x"), ("what_is_new", 1),
        ("layers_to_transform", [0]),
        ("r", 0), ("r", 2.0), ("r", True), ("r", "2"), ("r", 10**400), ("lora_alpha", float("nan")), ("lora_alpha", -1),
        ("lora_alpha", float("inf")), ("lora_alpha", None), ("rank_pattern", {"a": None}), ("rank_pattern", [["a", 1]]),
        ("rank_pattern", {"(a+)+$": 2}), ("rank_pattern", {"(a": 2}),
        ("alpha_pattern", {"x": "4"}), ("target_modules", "(a+)+$"),
        ("target_modules", None), ("target_modules", [["a"]]), ("target_modules", {"a": 1}),
    ],
)  # fmt: skip
def test_what_no_search_writes_is_refused_by_its_name(saved, field, value):
    folder = saved(PLAIN | {field: value})
    with pytest.raises(ValueError, match=f"{CONFIG}: {field} is "):
        saved_config.read(folder)


@pytest.mark.parametrize(
    "config", ["", "[]", "{", "null", "[" * 100_000, '{"peft_type": "PROMPT_TUNING"}', '{"r": 2}', "\x00"]
)
def test_what_is_no_configuration_of_lora_is_named(saved, config):
    with pytest.raises(ValueError, match=CONFIG):
        saved_config.read(saved(config))


@pytest.mark.parametrize(
    ("config", "a", "b"),
    [
        (PLAIN | {"r": 3}, (2, 3), (5, 2)),
        (PLAIN | {"rank_pattern": {"attn": 2}, "r": 10**9}, (2, 3), (5, 2)),
        (PLAIN, (2, 3), (5, 3)),
        (PLAIN, (2, 3), None),
        (PLAIN, (2,), (5, 2)),
    ],
)
def test_tensors_of_other_ranks_than_the_configuration_has_are_refused(saved, config, a, b):
    with pytest.raises(ValueError, match=r"is to have rank|no matrix has as many"):
        read_folder(saved(config, a, b))
