"""Trials over a base in four bits are those of plain PEFT over the same base."""

import dataclasses
import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from strategies import RankBudget
from tests.reference import SoloSession
from trainables import export
from trainables.adapters import peft_adapter
from trainables.data.collate import collate
from trainables.data.splits import DataSource, mean_loss
from trainables.engine.evaluation import exact_loss
from trainables.engine.pack import Pack
from trainables.engine.soundness import sound_coverage
from trainables.evidence.importance import measure_batches
from trainables.models import precision
from trainables.models.base_model import load, shape_of
from trainables.models.frozen_linear import FrozenLinear
from trainables.models.precision import Precision
from trainables.postprocess.verification import agree, reloaded
from trainables.spec import Workload
from trainables.training.inputs import base_of, splits_of
from trainables.training.losses import evaluate, token_losses

NF4 = Precision("float32", "nf4")
LEAST = 1e-6
"""Nats by which two sums of float32 in another order differ."""


@pytest.fixture(autouse=True)
def bitsandbytes(lacking):
    if importlib.util.find_spec("bitsandbytes") is None:
        lacking("bitsandbytes is not here; pip install 'lora-rank-search[nf4]' has it")


@pytest.fixture
def workload(model_folder, tiny_text):
    data = DataSource(str(tiny_text), train_examples=16, validation_examples=8, test_examples=8, max_length=32)
    budget = RankBudget.like_uniform(2, load(str(model_folder)).sites)
    return Workload(
        str(model_folder), data, budget, epochs=2, batch_size=4, reports=2, scale=2.0, pack_size=2, precision=NF4
    )


@pytest.fixture(params=["llama-gqa", "qwen2"])
def model(request):
    from tests.trainables.conftest import CONFIGS

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param]).requires_grad_(False).eval()


def solo(workload, spec, kind=SoloSession):
    session = kind(workload, spec)
    try:
        reports = [session.train(workload.steps // 2) for _ in range(2)]
        return [report.eval_loss for report in reports]
    finally:
        session.close()


def packed(workload, specs):
    pack = Pack.of(workload, workload.micro_batch)
    slots = [pack.admit(workload, spec) for spec in specs]
    losses = []
    for step in range(1, workload.steps + 1):
        while any(slot.learner.step < step for slot in slots):
            pack.step([slot for slot in slots if slot.learner.step < step])
        if step % (workload.steps // 2) == 0:
            examples = pack.splits.validation
            losses.append([mean_loss(examples, of_slot) for of_slot in pack.evaluate(slots, "validation")])
    assert not any(slot.failure for slot in slots)
    return list(zip(*losses, strict=True))


def test_packed_trials_are_those_of_plain_peft_over_the_same_base(workload, spec):
    base = base_of(workload)
    inside = [FrozenLinear(base.model.get_submodule(site.name)) for site in base.sites]
    assert all(layer.quantized for layer in inside)
    assert [(layer.in_features, layer.out_features) for layer in inside] == [(s.d_in, s.d_out) for s in base.sites]
    specs = [
        spec(learning_rate=1e-2, seed=1),
        spec("adalora", learning_rate=1e-2, seed=2),
    ]  # ranks of the first fall to 0
    assert 0 in specs[0].allocation(base.sites, workload.budget, {}).ranks.values()
    together = packed(workload, specs)
    for spec_, losses in zip(specs, together, strict=True):
        alone = solo(workload, spec_)
        assert alone[0] != alone[1]
        assert losses == pytest.approx(alone, abs=1e-4)


class InParts(SoloSession):
    """A trial alone whose passes have so many rows, in training and when it is measured."""

    rows = 1

    def _step(self):
        learner = self.learner
        examples = [self.splits.train[index] for index in learner.order[learner.step]]
        tokens, total = sum(example.learned_tokens for example in examples), 0.0
        for start in range(0, len(examples), self.rows):
            batch = collate(examples[start : start + self.rows], self.base.pad_id)
            loss = token_losses(self.base.model, batch.inputs, batch.labels, self.base.separable_head)[0].sum()
            (loss / tokens).backward()
            total += loss.item()
        learner.advance(total, tokens)

    def _evaluate(self, examples):
        return evaluate(self.base, examples, self.rows)


@pytest.mark.search
@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pack_parts_from_plain_peft_by_at_most_three_times_what_batches_of_1_and_8_do(
    workload, spec, dtype, monkeypatch
):
    workload = dataclasses.replace(workload, precision=Precision(dtype, "nf4"), batch_size=8, epochs=4)
    names = ("linear_decay", "adalora")  # of several seeds, for a single trial may part by little by chance
    trials = [spec(name, learning_rate=1e-2, seed=seed) for name in names for seed in range(3)]
    workload = dataclasses.replace(workload, pack_size=len(trials))
    alone = {}
    for rows in (1, 8):
        monkeypatch.setattr(InParts, "rows", rows)
        alone[rows] = torch.tensor([solo(workload, trial, InParts) for trial in trials], dtype=torch.float64)
    spread = (alone[1] - alone[8]).abs().max()
    apart = (torch.tensor(packed(workload, trials), dtype=torch.float64) - alone[8]).abs().max()
    assert 0 < apart <= min(max(3 * spread, LEAST), 2e-3)


def test_sites_shapes_and_evidence_are_those_of_the_weights_that_the_bits_stand_for(workload):
    base = base_of(workload)
    assert base.sites == load(workload.model).sites
    base = base_of(workload)
    batch = collate(splits_of(workload).train[:4], base.pad_id)
    measured = measure_batches(base.model, base.sites, [batch])
    dense = AutoModelForCausalLM.from_pretrained(
        workload.model, quantization_config=BitsAndBytesConfig(**NF4.four_bits), dtype=torch.float32
    ).dequantize()
    expected = measure_batches(dense.requires_grad_(False).eval(), base.sites, [batch])
    for kind, values in expected.items():
        assert measured[kind] == pytest.approx(values, rel=1e-3), kind
    assert base.params == shape_of(workload.model).params


def test_all_that_learns_is_covered(workload):
    base = base_of(workload)
    assert sound_coverage(base, splits_of(workload).train).share == 1


def test_a_checkpoint_that_was_saved_in_four_bits_loads_as_it_is(workload, tmp_path):
    expected = base_of(workload)
    expected.model.save_pretrained(tmp_path / "saved")
    expected.tokenizer.save_pretrained(tmp_path / "saved")
    ids = torch.arange(8).view(1, 8)
    logits = expected.model(ids).logits
    assert shape_of(str(tmp_path / "saved")).params == expected.params
    loaded = load(str(tmp_path / "saved"))
    assert all(FrozenLinear(loaded.model.get_submodule(site.name)).quantized for site in loaded.sites)
    torch.testing.assert_close(loaded.model(ids).logits, logits)


@pytest.mark.process
@pytest.mark.thorough
def test_others_measure_and_merge_what_was_trained_over_four_bits(workload, spec, tmp_path):
    base, rows = base_of(workload), splits_of(workload).validation
    adapter = peft_adapter.fresh_planned(base, workload, spec(learning_rate=1e-2))
    with torch.no_grad():
        for tensor in adapter.parameters:
            tensor.normal_(std=0.1)
    adapter.save(tmp_path / "adapter")
    measured = exact_loss(base, adapter, rows, 4)
    over_float32 = reloaded(workload.model, [tmp_path / "adapter"], rows, "cpu")[0]
    assert abs(over_float32 - measured) > 1e-3, "the bits are another base"
    assert agree(measured, reloaded(workload.model, [tmp_path / "adapter"], rows, "cpu", NF4)[0])
    export.merged(workload.model, NF4, tmp_path / "adapter", tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    assert agree(measured, reloaded(str(tmp_path / "merged"), [None], rows, "cpu")[0])


def test_without_bitsandbytes_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--quantize nf4: needs bitsandbytes; install it"):
        _ = NF4.loading
