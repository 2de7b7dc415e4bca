"""What a captured graph would need: the same memory in every step, and few shapes."""

import dataclasses
import math

import pytest
import torch

from trainables.engine import pass_inputs as engine
from trainables.engine.pack import Pack
from trainables.models.device import CUDA, Cuda, Device

KINDS = ("linear_decay", "adalora")


@pytest.fixture
def long(workload):
    return dataclasses.replace(workload, epochs=30)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Ranks are padded and lanes filled up as on a GPU."""
    monkeypatch.setattr(Device, "rank_multiple", Cuda(CUDA).rank_multiple)
    monkeypatch.setattr(Device, "bucket", Cuda.bucket)


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of all passes."""
    seen, arrange = set(), engine.arrange

    def arranging(*arguments):
        lanes = arrange(*arguments)
        seen.add((len(lanes.lengths), lanes.per_trial, lanes.length))
        return lanes

    monkeypatch.setattr(engine, "arrange", arranging)
    return seen


def addresses(pack):
    (store,) = pack._stores
    entered = {f"{dtype} {shape}": memory for (dtype, shape), memory in pack._entries.memory.items()}
    scaled = {str(dtype): memory for dtype, memory in store._scaled.items()}
    base = dict(pack.base.model.named_parameters())
    named = {"flat": store.flat, "scales": store.scales, **entered, **scaled, **base}
    return {name: tensor.data_ptr() for name, tensor in named.items()}


def test_fifty_steps_find_everything_where_it_was_and_have_few_shapes(long, spec, as_on_a_gpu, shapes):
    pack = Pack.of(long, 4)
    slots = [pack.admit(long, spec(kind, learning_rate=0.01, seed=seed)) for seed, kind in enumerate(KINDS * 2)]
    ranks, before, given = slots[1].learner.facts["ranks"], {}, set()
    embeddings = pack.base.model.get_input_embeddings()
    listening = embeddings.register_forward_pre_hook(lambda _, args: given.add(args[0].data_ptr()))
    for step in range(50):
        if step == 10:
            pack.forget(slots.pop(0))
        if step == 20:
            slots.append(pack.admit(long, spec("linear_decay", learning_rate=0.01, seed=7)))
        if step == 30:
            with torch.no_grad():
                slots[-1].learner.parameters[0].fill_(math.nan)
        pack.step([slot for slot in slots if not slot.failure])
        if step % 25 == 24:
            pack.evaluate([slot for slot in slots if not slot.failure], "validation")
        here = addresses(pack)
        assert before.items() <= here.items(), step
        before = here
    listening.remove()
    assert sum("int64" in name for name in before) <= 8
    assert sum("float32" in name for name in before) > 1
    assert given <= set(before.values())
    assert "at step 10" in str(slots[-1].failure)
    assert slots[0].learner.facts["ranks"] != ranks, "no rank has changed"
    assert len(shapes) <= 8


def test_what_fills_up_changes_no_result(long, spec, as_on_a_gpu, monkeypatch):
    def trained():
        pack = Pack.of(long, 4)
        slots = [pack.admit(long, spec(kind, learning_rate=0.01, seed=1)) for kind in KINDS]
        for _ in range(5):
            pack.step(slots)
        return [tensor for slot in slots for tensor in slot.learner.adapter.parameters], pack.evaluate(slots, "test")

    filled, losses = trained()
    monkeypatch.undo()
    plain, expected = trained()
    assert all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in zip(filled, plain, strict=True))
    assert torch.allclose(torch.tensor(losses), torch.tensor(expected), rtol=0, atol=1e-4)


def test_buckets_are_few_and_fill_up_by_a_quarter_at_most():
    bucket = Cuda(CUDA).bucket
    sizes = [bucket(tokens) for tokens in range(1, 1025)]
    assert all(tokens <= size for tokens, size in enumerate(sizes, 1))
    assert all(size <= 1.25 * tokens for tokens, size in enumerate(sizes, 1) if tokens >= 64)
    assert sorted({size for size in sizes if size > 64}) == [
        *range(80, 129, 16), *range(160, 257, 32), *range(320, 513, 64), *range(640, 1025, 128)
    ]  # fmt: skip
    assert Device("cpu").bucket(77) == 77
