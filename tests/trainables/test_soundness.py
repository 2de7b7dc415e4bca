"""Sites are those that a pack, a saved adapter and plain PEFT treat alike, and that learn; the others are named."""

import copy
import types

import pytest
import torch

from strategies import RankBudget
from tests.zoo import built
from trainables.data.splits import DataSource, Example, Splits
from trainables.engine import soundness
from trainables.engine.soundness import sound_coverage
from trainables.models.base_model import BaseModel
from trainables.models.matrices import coverage_of
from trainables.models.probes import joining, separable_head
from trainables.spec import Workload

ROWS = [Example(ids, ids) for ids in (tuple(range(1, 200, 13)), tuple(range(7, 290, 25)))]
WHOLE = (
    "llama",
    "gpt2",
    "gpt-neox",
    "qwen2",
    "qwen3",
    "opt",
    "falcon",
    "bloom",
    "gemma3n",
    "minicpm3",
    "phi3",
    "gemma3",
)
NOT_JOINED = "rows are not laid end to end, since they would see each other"
ROUTED = "left out: 4 routers (they choose experts), 32 matrices of routed experts (each token meets only some of them)"
PARTLY = {
    "mixtral": f"16 of 52 matrices, 14% of their parameters; {ROUTED}",
    "qwen2-moe": f"28 of 68 matrices, 46% of their parameters; {ROUTED}, 4 gates (they have one row)",
    "deepseek-v3": "20 of 59 matrices, 31% of their parameters; left out: 24 matrices of routed experts (each token "
    "meets only some of them), 3 routers (they choose experts), 8 matrices (PEFT refuses them), "
    "4 matrices (PEFT loads them as something else)",
    "phimoe": f"16 of 52 matrices, 14% of their parameters; {ROUTED}",
    "mamba": "8 of 16 matrices, 69% of their parameters; left out: 4 matrices (no token reaches them), "
    f"4 matrices (PEFT refuses them); {NOT_JOINED}",
    "zamba2": f"26 of 30 matrices, 98% of their parameters; left out: 4 matrices (no token reaches them); {NOT_JOINED}",
    "bart": f"24 of 40 matrices, 64% of their parameters; left out: 16 matrices (no token reaches them); {NOT_JOINED}",
}


def base_of(model, tokenizer):
    model.requires_grad_(False)
    model.config.use_cache = False
    return BaseModel(model, tokenizer, coverage_of(model), 0, "cpu", separable_head(model), joining(model))


@pytest.fixture
def looked(tiny_tokenizer):
    """Return what of a model is sound, and hold that looking has changed nothing in it."""

    def look(model):
        base = base_of(model, tiny_tokenizer)
        modules = {name: id(module) for name, module in model.named_modules()}
        weights = copy.deepcopy(model.state_dict())
        try:
            return sound_coverage(base, ROWS)
        finally:
            assert {name: id(module) for name, module in model.named_modules()} == modules
            assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
            assert not any(parameter.requires_grad for parameter in model.parameters())

    return look


@pytest.mark.parametrize("kind", WHOLE)
def test_every_matrix_of_the_text_model_is_adapted(kind, looked):
    coverage = looked(built(kind))
    assert (coverage.share, coverage.left_out) == (1, ())
    assert coverage.skips is (kind != "gemma3n")
    assert coverage.joins is (kind != "bloom")


@pytest.mark.parametrize("kind", PARTLY)
def test_what_is_left_out_is_named_with_the_reason(kind, looked):
    assert str(looked(built(kind))) == f"adapted: {PARTLY[kind]}"


def _replaced(model, change):
    """Put another class into the place of each block's ``up_proj``, with the same weights."""
    for block in model.model.layers:
        layer = copy.copy(block.mlp.up_proj)
        layer.__class__ = change
        block.mlp.up_proj = layer
    return model


class Doubling(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Tuples(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x), None


@pytest.mark.parametrize(
    ("change", "why"), [(Doubling, "they do something else in a pack"), (Tuples, "they return tuples")]
)
def test_a_layer_of_its_own_kind_is_left_out(change, why, looked, monkeypatch):
    model = _replaced(built("llama"), change)
    if change is Tuples:
        mlp = type(model.model.layers[0].mlp)
        monkeypatch.setattr(
            mlp, "forward", lambda self, x: self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)[0])
        )
    coverage = looked(model)
    assert [str(item) for item in coverage.left_out] == [f"4 matrices ({why})"]
    assert not any("up_proj" in site.name for site in coverage.sites)


def test_a_model_whose_rows_see_each_other_is_refused(looked, monkeypatch):
    model = built("llama")
    mlp = type(model.model.layers[0].mlp)
    monkeypatch.setattr(mlp, "forward", lambda self, x: self.down_proj(self.up_proj(x) - self.gate_proj(x).mean()))
    with pytest.raises(ValueError, match="something else in a pack than in plain PEFT"):
        looked(model)


def test_a_model_that_no_pack_can_train_is_refused(looked, monkeypatch):
    model = built("llama")
    mlp = type(model.model.layers[0].mlp)

    def two_rows_only(self, x):
        if len(x) > 2:
            raise RuntimeError("two rows at most\nfrom somewhere")
        return self.down_proj(self.up_proj(x) * self.gate_proj(x))

    monkeypatch.setattr(mlp, "forward", two_rows_only)
    with pytest.raises(ValueError, match=r"cannot be trained in a pack \(two rows at most\)"):
        looked(model)


def test_matrices_of_a_block_whose_names_differ_in_a_number_alone_are_told_apart(looked):
    model = built("opt")
    for block in model.model.decoder.layers:
        block.fc1.__class__ = Doubling
    (left_out,) = looked(model).left_out
    assert {name.rpartition(".")[2] for name in left_out.names} == {"fc1"}


def test_no_more_than_ten_passes_are_made_whatever_is_found(tiny_tokenizer):
    """Counted at what is in each block and is neither a site nor skipped with it but as it is computed."""
    model, calls = built("llama"), []
    for block in model.model.layers:
        block.mlp.up_proj.__class__ = block.self_attn.o_proj.__class__ = Doubling
    base = base_of(model, tiny_tokenizer)
    for block in model.model.layers:
        block.input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    coverage = sound_coverage(base, ROWS)
    assert [str(item) for item in coverage.left_out] == ["8 matrices (they do something else in a pack)"]
    assert len(calls) == 10 * len(model.model.layers)


def test_the_longest_rows_of_all_splits_are_looked_at(monkeypatch):
    splits = Splits((Example((1, 2), (1, 2)),), (Example((3, 4), (3, 4)),), (Example((5, 6), (5, 6)),))
    workload, examples = Workload("m", DataSource(), RankBudget(9), 1, 4, 1, 2.0, splits=splits), []
    monkeypatch.setattr(soundness, "_in_float32", lambda workload: workload)
    monkeypatch.setattr(soundness, "base_of", lambda workload: types.SimpleNamespace(params=0))
    monkeypatch.setattr(soundness, "sound_coverage", lambda base, rows: examples.extend(rows))
    soundness.sound_coverage_of(workload)
    assert {example.input_ids for example in examples} == {(1, 2), (3, 4), (5, 6)}


def test_one_row_is_enough(tiny_tokenizer):
    assert sound_coverage(base_of(built("llama"), tiny_tokenizer), ROWS[:1]).share == 1
