"""Memory ends while a pack trains: in a pass, which is repeated in smaller ones, or in one trial's optimizer step."""

import dataclasses

import pytest
import torch

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from tests.reference import SoloSession
from trainables.data.splits import DataSource
from trainables.engine.pack import Pack
from trainables.models.base_model import load
from trainables.spec import TrialSpec, Workload

MICRO = 4
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
ENDED = [torch.OutOfMemoryError("there is no more"), CUBLAS]
OTHERS = ("llama-tied", "qwen2", "qwen3", "gpt-neox", "phi")
MODELS = ["gpt2", "llama-gqa", *(pytest.param(model, marks=pytest.mark.thorough) for model in OTHERS)]
pytestmark = pytest.mark.parametrize("model", MODELS, indirect=True)


@pytest.fixture
def workload(model_folder, tiny_text):
    """A dozen steps on lines that are about as long as each other, so that each has a lane of its own."""
    data = DataSource(str(tiny_text), train_examples=20, validation_examples=6, test_examples=6, max_length=24)
    budget = RankBudget.like_uniform(2, load(str(model_folder)).sites)
    return Workload(str(model_folder), data, budget, epochs=2.4, batch_size=MICRO, reports=2, scale=2.0, dropout=0.3)


@pytest.fixture
def pack(workload):
    return Pack.of(workload, MICRO)


def trial(seed, log_ratio=-3.0):
    config = TrialConfig("attention_heavy", params={"log_ratio": log_ratio}, learning_rate=5e-3, seed=seed)
    return TrialSpec.from_config(config)


def check_trained_as_alone(slot):
    """Compare with PEFT and ``torch.optim.AdamW`` on a model of its own."""
    solo = SoloSession(slot.learner.workload, slot.learner.spec)
    solo.train(slot.learner.step)
    for name, tensor in solo.learner.adapter.weights.items():
        assert torch.allclose(slot.learner.adapter.weights[name], tensor, rtol=0, atol=1e-4), name
    solo.close()


def end_passes_of_more_than(rows, pack, error):
    """Let memory end while gradients are being computed, if a pass has more rows."""

    def end(gradient):
        raise error

    def watch(block, args, kwargs):
        if args[0].shape[0] > rows and args[0].requires_grad:
            args[0].register_hook(end)

    pack.prefix.blocks[1].register_forward_pre_hook(watch, with_kwargs=True)


@pytest.mark.parametrize("error", ENDED)
def test_trials_that_do_not_fit_into_one_pass_are_trained_in_several(pack, workload, error):
    large = dataclasses.replace(workload, batch_size=2 * MICRO, epochs=4.8, weight_decay=0.1, dropout=0.0)
    trials = [(large, trial(2)), (workload, trial(0)), (workload, trial(1, 3.0))]
    slots = [pack.admit(*trial) for trial in trials]
    pack.step(slots[:1])  # half of its batch, which it begins again
    end_passes_of_more_than(2 * MICRO, pack, error)
    while running := [slot for slot in slots if not slot.learner.done]:
        pack.step(running)
        assert not any(slot.failure for slot in slots)
    assert pack.resource_events == ["out of memory with 3 trials in a pass; at most 1 since"]
    assert pack.max_trials_per_pass == 1
    for slot in slots:
        check_trained_as_alone(slot)


@pytest.mark.parametrize("error", ENDED)
def test_a_trial_that_does_not_fit_by_itself_fails_alone_and_not_as_diverged(pack, workload, error):
    slot = pack.admit(workload, trial(0))
    before = [tensor.clone() for tensor in slot.learner.parameters]
    end_passes_of_more_than(0, pack, error)
    pack.step([slot])
    assert slot.failure is error
    assert slot.learner.step == 0
    assert all(torch.equal(a, b) for a, b in zip(slot.learner.parameters, before, strict=True))
    assert not any(tensor.grad.any() for tensor in slot.learner.parameters)


@pytest.mark.parametrize("before", [0, 11])
def test_a_trial_without_room_for_its_tensors_is_not_let_in_and_no_other_notices(pack, workload, monkeypatch, before):
    """Its neighbours are at their first step, or at their last, after which there is none to repeat."""
    first, last = (pack.admit(workload, trial(seed)) for seed in range(2))
    for _ in range(before):
        pack.step([first, last])
    with monkeypatch.context() as patch:
        patch.setattr("trainables.engine.adapter_store.torch.zeros", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            pack.admit(workload, trial(2))
    while not first.learner.done:
        pack.step([first, last])
    check_trained_as_alone(first), check_trained_as_alone(last)


def out_of_memory(*arguments, **named):
    raise torch.OutOfMemoryError("there is no more")


@pytest.mark.parametrize("before", [0, 11])
def test_memory_that_ends_within_a_step_ends_before_anything_is_changed(pack, workload, monkeypatch, before):
    slots = [pack.admit(workload, trial(seed)) for seed in range(2)]
    for _ in range(before):
        pack.step(slots)
    calls, empty_like = iter([True]), torch.empty_like

    def once(tensor, *arguments, **named):
        return out_of_memory() if tensor.ndim == 2 and next(calls, False) else empty_like(tensor, *arguments, **named)

    monkeypatch.setattr("trainables.training.flat_adamw.torch.empty_like", once)
    while not slots[0].learner.done:
        pack.step(slots)
    assert pack.max_trials_per_pass == 1
    check_trained_as_alone(slots[0]), check_trained_as_alone(slots[1])
