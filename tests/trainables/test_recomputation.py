"""Blocks that compute twice give what they give once, in less memory; so do small micro-batches."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from strategies import RankBudget
from tests.trainables.conftest import CONFIGS
from trainables.data.splits import DataSource, Example, load_splits
from trainables.engine.pack import Pack
from trainables.engine.sequence_packing import LONG, arrange
from trainables.models.base_model import load
from trainables.spec import Workload

STEPS = 3


@pytest.fixture(params=["llama-gqa", "gpt2", "gpt-neox"])
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param]).requires_grad_(False).eval()


@pytest.fixture
def workload(model_folder, tiny_text):
    data = DataSource(str(tiny_text), train_examples=16, validation_examples=4, test_examples=4, max_length=32)
    budget = RankBudget.like_uniform(2, load(str(model_folder)).sites)
    return Workload(str(model_folder), data, budget, epochs=2, batch_size=8, reports=2, scale=2.0, dropout=0.3)


def trained(workload, specs):
    """Return each trial's loss of each step, its factors at the end, and the bytes kept for the backward pass."""
    pack, kept = Pack.of(workload, workload.micro_batch), 0

    def note(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    slots, losses = [pack.admit(workload, spec) for spec in specs], []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for step in range(1, STEPS + 1):
            before = [slot.learner.recent.loss for slot in slots]
            while any(slot.learner.step < step and not slot.failure for slot in slots):
                pack.step([slot for slot in slots if slot.learner.step < step])
            losses.append([slot.learner.recent.loss - loss for slot, loss in zip(slots, before, strict=True)])
    assert not any(slot.failure for slot in slots)
    return losses, [tensor.detach().clone() for slot in slots for tensor in slot.learner.parameters], kept


@pytest.fixture
def specs(spec):
    """The second has no adapter in the lowest block."""
    return [spec(learning_rate=5e-3, seed=1), spec("adalora", learning_rate=5e-3, seed=2)]


def test_blocks_that_compute_twice_give_the_same_numbers_to_the_bit_dropout_included(workload, specs):
    losses, factors, kept = trained(workload, specs)
    again, factors_again, kept_again = trained(dataclasses.replace(workload, recomputes=True), specs)
    assert again == losses
    assert all(torch.equal(*pair) for pair in zip(factors, factors_again, strict=True))
    assert kept_again < 0.5 * kept
    network = load(workload.model).model
    assert not any("forward" in vars(module) for module in network.modules())


def test_an_effective_batch_is_the_same_in_small_parts(workload, specs):
    workload = dataclasses.replace(workload, dropout=0.0)
    losses, _, _ = trained(workload, specs)
    parts = dataclasses.replace(workload, rows_per_pass=2)
    assert (workload.micro_batch, parts.micro_batch) == (8, 2)
    again, _, _ = trained(parts, specs)
    tokens = sum(example.learned_tokens for example in load_splits(workload.data, workload.model).train) / 2
    for one, other in zip(losses, again, strict=True):
        assert [loss / tokens for loss in other] == pytest.approx([loss / tokens for loss in one], abs=1e-5)


def test_a_long_row_has_a_lane_of_its_own_and_no_mask():
    for longest, joined in ((LONG - 1, True), (LONG, False)):
        lanes = arrange([[longest, 40, 40, 40]], 64, True)
        assert lanes.joined == joined
        rows = [Example((1,) * length, (1,) * length) for length in lanes.lengths[0]]
        assert ("attention_mask" in lanes.inputs(rows, 0, masked=True).model) == joined
