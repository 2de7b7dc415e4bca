"""How a base lies in memory, and which of them can be trained over."""

import dataclasses
import weakref

import pytest
import torch

from strategies import RankBudget
from strategies.base import Site
from tests.zoo import built
from trainables.adapters import peft_adapter
from trainables.data.splits import mean_loss
from trainables.engine import soundness
from trainables.engine.evaluation import exact_loss
from trainables.engine.pack import Pack
from trainables.models import base_model, block_speed
from trainables.models.precision import IN_FLOAT32, Precision, check_saved
from trainables.postprocess.verification import agree, in_words, reloaded
from trainables.training.inputs import base_of, splits_of

BFLOAT16 = Precision("bfloat16")


def test_a_base_is_cast_once_and_adapters_gradients_and_moments_are_float32(workload, spec):
    workload = dataclasses.replace(workload, precision=BFLOAT16)
    pack = Pack.of(workload, workload.micro_batch)
    weights = {name: tensor.data_ptr() for name, tensor in pack.base.model.named_parameters()}
    assert {tensor.dtype for tensor in pack.base.model.parameters()} == {torch.bfloat16}
    slot = pack.admit(workload, spec(learning_rate=1e-2))
    before = pack.evaluate([slot], "validation")[0]
    while not slot.learner.done:
        pack.step([slot])
    assert slot.failure is None
    trained = [*slot.learner.parameters, *(parameter.grad for parameter in slot.learner.parameters)]
    moments = [tensor for state in slot.learner.optimizer.state.values() for tensor in state.values()]
    assert {tensor.dtype for tensor in trained + moments} == {torch.float32}
    examples = pack.splits.validation
    assert mean_loss(examples, pack.evaluate([slot], "validation")[0]) < mean_loss(examples, before)
    assert weights == {name: tensor.data_ptr() for name, tensor in pack.base.model.named_parameters()}


def test_no_two_bases_lie_in_memory_while_one_is_looked_at_in_float32(workload, monkeypatch):
    networks, alive, read = [], [], base_model.read_network

    def noted(model, device, precision):
        alive.append((precision.dtype, sum(network() is not None for network in networks)))
        network = read(model, device, precision)
        networks.append(weakref.ref(network))
        return network

    base_model.load.cache_clear()
    monkeypatch.setattr(base_model, "read_network", noted)
    workload = dataclasses.replace(workload, precision=BFLOAT16)
    soundness.sound_coverage_of(workload)
    base_of(workload)
    assert alive == [("bfloat16", 0), ("float32", 0), ("bfloat16", 0)]


def test_a_base_for_which_memory_does_not_suffice_in_float32_is_refused_in_one_line(workload, monkeypatch):
    def short(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    workload = dataclasses.replace(workload, precision=BFLOAT16)
    looked_at = soundness._in_float32(workload)
    monkeypatch.setattr(soundness, "_in_float32", lambda _: looked_at)
    monkeypatch.setattr(soundness, "base_of", short)
    with pytest.raises(ValueError, match="memory does not suffice to look at its matrices in float32") as refused:
        soundness.sound_coverage_of(workload)
    assert "\n" not in str(refused.value)


@pytest.mark.search
@pytest.mark.parametrize("kind", ["mamba", pytest.param("mamba2", marks=pytest.mark.thorough)])
def test_a_model_whose_last_hidden_state_is_float32_in_bfloat16_is_looked_at_and_trained(
    workload, spec, kind, tmp_path, tiny_tokenizer
):
    model = tmp_path / "model"
    built(kind).save_pretrained(model), tiny_tokenizer.save_pretrained(model)
    workload = dataclasses.replace(workload, model=str(model), precision=BFLOAT16)
    coverage = soundness.sound_coverage_of(workload)
    budget = RankBudget.like_uniform(2, coverage.sites)
    workload = dataclasses.replace(workload, coverage=coverage, budget=budget)
    pack = Pack.of(workload, 4)
    slot = pack.admit(workload, spec(learning_rate=1e-2))
    pack.step([slot])
    assert not pack.base.separable_head
    assert (slot.failure, slot.learner.step) == (None, 1)


@pytest.mark.process
def test_what_was_trained_in_bfloat16_is_measured_in_bfloat16_by_others_too(workload, spec, tmp_path):
    workload = dataclasses.replace(workload, precision=BFLOAT16)
    base, rows = base_of(workload), splits_of(workload).validation
    adapter = peft_adapter.fresh_planned(base, workload, spec(learning_rate=1e-2))
    with torch.no_grad():
        for tensor in adapter.parameters:
            tensor.normal_(std=0.1)
    adapter.save(tmp_path / "adapter")
    measured = exact_loss(base, adapter, rows, 4)
    (loss,) = reloaded(workload.model, [tmp_path / "adapter"], rows, "cpu", BFLOAT16)
    assert agree(measured, loss, BFLOAT16)
    assert "with the base in bfloat16 as in training, as the search did" in in_words(measured, loss, BFLOAT16)
    assert not agree(measured, measured + 0.003, BFLOAT16)
    assert not agree(measured, measured + 0.001)


def test_measurements_of_different_precisions_have_files_of_their_own():
    precisions = [IN_FLOAT32, BFLOAT16, Precision("float32", "nf4")]
    assert [precision.key for precision in precisions] == ["", "-bfloat16", "-nf4"]
    assert [str(precision) for precision in precisions] == ["float32", "bfloat16", "nf4 and float32"]
    plans = [{}, {"base_dtype": "auto"}, {"base_dtype": "bfloat16"}, {"base_dtype": "float32", "quantize": "nf4"}]
    assert [Precision.of_plan(plan) for plan in plans] == [IN_FLOAT32, *precisions]


@pytest.mark.parametrize(("config", "how"), [
    ({"quant_method": "gptq"}, "GPTQ"),
    ({"quant_method": "awq"}, "AWQ"),
    ({"quant_method": "fp8"}, "FP8"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
])  # fmt: skip
def test_what_cannot_be_trained_over_is_refused_in_one_line_with_the_way_out(config, how):
    with pytest.raises(ValueError, match=f"quantised by {how}, .* made from, with --quantize nf4") as refusal:
        check_saved("it", config)
    assert "\n" not in str(refusal.value)


def test_a_block_is_measured_at_the_shapes_of_the_lowest(monkeypatch):
    measured = []

    def seconds(shapes, tokens, dtype):
        measured.append((shapes, tokens))
        return {torch.float32: 3.0, torch.bfloat16: 2.0}[dtype]

    monkeypatch.setattr(block_speed, "_seconds", seconds)
    sites = [Site("0.x", 4, 8, 0, "mlp"), Site("1.x", 5, 9, 1, "mlp"), Site("0.y", 6, 7, 0, "attention")]
    assert block_speed.bfloat16_gain(sites, 10_000) == 1.5
    assert measured == [([(4, 8), (6, 7)], block_speed.MOST_TOKENS)] * 2
