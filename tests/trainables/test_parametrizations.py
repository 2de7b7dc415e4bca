"""What strategies name is there, and a parametrization of one's own is trained, saved and taken up like any other."""

import pkgutil
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from analysis.results.trial_config import TrialConfig
from strategies import STRATEGIES
from strategies.baseline import Baseline
from trainables.engine.pack import Pack
from trainables.spec import TrialSpec
from trainables.training.checkpoint import STATE
from trainables.training.parametrization import Parametrization, Plain


class OnlyB(Plain):
    """A stays as it was drawn; B is trained as twice what it was, so that it is not the adapter's own tensor."""

    def __init__(self, adapter, *others):
        super().__init__(adapter, *others)
        self.doubled = [(2 * b.detach()).requires_grad_() for _, b in adapter.factors.values()]

    @property
    def parameters(self):
        return self.doubled

    def gather(self):
        for tensor, (_, b) in zip(self.doubled, self.adapter.factors.values(), strict=True):
            tensor.grad = b.grad / 2

    @torch.no_grad()
    def settle(self, step):
        for tensor, (_, b) in zip(self.doubled, self.adapter.factors.values(), strict=True):
            b.copy_(tensor / 2)

    def state(self):
        return {str(number): tensor for number, tensor in enumerate(self.doubled)}

    @torch.no_grad()
    def restore(self, weights, state):
        self.adapter.set_weights(weights)
        for number, tensor in enumerate(self.doubled):
            tensor.copy_(state[str(number)])


@dataclass(frozen=True)
class Half(Baseline):
    name: ClassVar[str] = "half"
    parametrization: ClassVar[str | None] = f"{__name__}:OnlyB"


@pytest.fixture
def spec(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "half", Half)
    return TrialSpec.from_config(TrialConfig("half", learning_rate=0.01, seed=1))


def test_all_that_strategies_name_is_there():
    for cls in STRATEGIES.values():
        for named in (cls.measurement, cls.initializer, cls.parametrization):
            assert named is None or callable(pkgutil.resolve_name(named))
        assert cls.parametrization is None or issubclass(pkgutil.resolve_name(cls.parametrization), Parametrization)


def test_what_a_strategy_names_is_trained_in_the_adapters_place(workload, spec):
    pack = Pack.of(workload, 4)
    slot = pack.admit(workload, spec)
    learner = slot.learner
    before = {name: tensor.detach().clone() for name, tensor in learner.adapter.weights.items()}
    pack.step([slot])
    for name, tensor in learner.adapter.weights.items():
        assert torch.equal(tensor, before[name]) == (".lora_A." in name), name
    # Adam's first step is the learning rate's, here 1/2 of it on its way to B; it rises from the first step on
    steps = torch.cat([b.detach().abs().flatten() for _, b in learner.adapter.factors.values()])
    assert steps.max() == pytest.approx(learner.optimizer.param_groups[0]["lr"] / 2, rel=1e-3)
    assert len(learner.optimizer.param_groups[0]["params"]) == len(learner.adapter.factors)


def test_it_goes_on_from_its_checkpoint(workload, spec, tmp_path):
    pack = Pack.of(workload, 4)
    slots = [pack.admit(workload, spec) for _ in range(2)]
    for _ in range(3):
        pack.step(slots[:1])
    slots[0].learner.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / STATE)
    assert {name for name in saved if name.startswith("own/")} == {f"own/{number}" for number in range(8)}
    slots[1].learner.load(tmp_path / "saved")
    while not slots[0].learner.done:
        pack.step(slots[:1]), pack.step(slots[1:])
    one, other = (slot.learner.outcome.weights for slot in slots)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_parametrization_of_the_same_ranks_is_another_allocation(workload, spec, monkeypatch, tmp_path):
    pack = Pack.of(workload, 4)
    pack.admit(workload, spec).learner.save(tmp_path / "saved")
    plain = TrialSpec.from_config(TrialConfig("baseline", learning_rate=0.01, seed=1))
    with pytest.raises(ValueError, match="allocation is"):
        pack.admit(workload, plain).learner.load(tmp_path / "saved")
    assert spec.training != plain.training
