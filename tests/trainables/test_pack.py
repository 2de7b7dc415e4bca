"""Packed training against each trial alone, through plain PEFT and ``torch.optim.AdamW``."""

import dataclasses
import math

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from tests.reference import SoloSession
from trainables.adapters import peft_adapter
from trainables.data.collate import collate
from trainables.data.splits import DataSource, load_splits, mean_loss
from trainables.engine.pack import Pack
from trainables.engine.sequence_packing import arrange
from trainables.models.base_model import load
from trainables.spec import TrialSpec, Workload
from trainables.training.losses import batch_order

STEPS = 50
MICRO = 4
MODELS = ("gpt2", "llama-gqa", "llama-tied", "qwen2", "qwen3", "gpt-neox", "phi")


def quick(cases, chosen):
    """Have only the chosen ones of some cases run in `make test`."""
    return [case if case in chosen else pytest.param(*case, marks=pytest.mark.thorough) for case in cases]


@pytest.fixture
def source(tmp_path):
    """Lines of three tokens and more, some longer than an example may be."""
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"the {index} quick brown foxes jump over"[: 3 + 3 * index % 33] for index in range(60)))
    return DataSource(dataset=str(path), train_examples=20, validation_examples=6, test_examples=6, max_length=24)


def trials(model, source, dropout=0.0):
    """Five trials that share nothing but base and data: (workload, spec) of each."""
    budget = RankBudget.like_uniform(2, load(str(model)).sites)
    plain = Workload(str(model), source, budget, epochs=12, batch_size=MICRO, reports=2, scale=2.0, dropout=dropout)

    def trial(strategy, learning_rate, params=None, **changes):
        spec = {
            "strategy": strategy,
            strategy: params or {},
            "learning_rate": learning_rate,
            "seed": changes.pop("seed", 0),
        }
        spec["scaling"] = changes.pop("scaling", "constant")
        return dataclasses.replace(plain, **changes), TrialSpec.from_config(TrialConfig.from_ray(spec))

    return [
        trial("baseline", 5e-3),
        trial("linear_decay", 3e-3, {"slope": 1.0}, seed=1, clip_norm=0.05),
        trial("linear_decay", 5e-3, {"slope": -1.5}, epochs=30, scaling="alpha/r"),
        trial("attention_heavy", 5e-3, {"log_ratio": -3.0}, seed=2, batch_size=2 * MICRO, epochs=24, weight_decay=0.1),
        trial("attention_heavy", 1e-2, {"log_ratio": 3.0}, seed=3, scaling="alpha/sqrt(r)", warmup=0.5),
    ]


def alone(workload, spec, steps=STEPS):
    """Train one trial with nothing but PEFT and PyTorch; return its losses per token and its adapter's tensors."""
    base = load(workload.model)
    network = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32).requires_grad_(False).eval()
    model = peft_adapter.attach_planned(dataclasses.replace(base, model=network), workload, spec)
    peft_adapter.set_dropout(model, True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p], "factor": factor_of(n, spec, base)} for n, p in model.named_parameters() if p.requires_grad
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, weight_decay=workload.weight_decay)
    train, rising = load_splits(workload.data, workload.model).train, max(1, round(workload.warmup * workload.steps))
    losses = []
    for step, rows in enumerate(batch_order(len(train), workload.batch_size, workload.steps, spec.seed)[:steps]):
        examples = [train[index] for index in rows]
        batches = [collate(examples[start : start + MICRO], base.pad_id) for start in range(0, len(rows), MICRO)]
        tokens = sum(batch.learned_tokens for batch in batches)
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            mean = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
            loss = mean * batch.learned_tokens / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, workload.clip_norm)
        share = min((step + 1) / rising, (workload.steps - step) / (workload.steps - rising + 1))
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * share * group["factor"]
        optimizer.step()
        losses.append(total)
    return losses, {name: tensor.clone() for name, tensor in peft.get_peft_model_state_dict(model).items()}


def factor_of(name, spec, base):
    """Return what a parameter's learning rate is multiplied by: of a sloped trial 1.5, 1.25, ... .5 from below."""
    if spec.label != "layer_lr":
        return 1.0
    top = max(site.depth for site in base.sites)
    depth = next(site.depth for site in base.sites if f".{site.name}.lora_" in name)
    return 1.5 - depth / top


class Recorded:
    """A slot whose losses are kept."""

    def __init__(self, pack, workload, spec):
        self.slot, self.losses = pack.admit(workload, spec), []
        count = self.slot.learner.count

        def recording(loss, tokens):
            count(loss, tokens)
            self.losses.append(loss / tokens)

        self.slot.learner.count = recording


def packed(pack, chosen, steps=STEPS):
    """Train trials together until each has done its steps."""
    recorded = [Recorded(pack, *trial) for trial in chosen]
    while running := [r.slot for r in recorded if r.slot.learner.step < steps and not r.slot.failure]:
        pack.step(running)
    return recorded


@pytest.fixture
def pack(model_folder, source):
    return Pack(load(str(model_folder)), load_splits(source, str(model_folder)), MICRO)


def check_agreement(recorded, reference):
    losses, tensors = reference
    assert recorded.losses == pytest.approx(losses, abs=1e-5)
    weights = recorded.slot.learner.adapter.weights
    assert weights.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(weights[name], tensor, rtol=0, atol=1e-4), name


@pytest.fixture
def joined(monkeypatch):
    """Whether rows were joined, pass by pass."""
    passes = []

    def arranging(*arguments):
        lanes = arrange(*arguments)
        passes.append(lanes.joined)
        return lanes

    monkeypatch.setattr("trainables.engine.pass_inputs.arrange", arranging)
    return passes


WHOLE = [(model, dropout, STEPS) for model in MODELS for dropout in (0.0, 0.3)]
SHORT = [(model, 0.3 if model in {"gpt2", "llama-gqa", "qwen3"} else 0.0, 7) for model in MODELS]


@pytest.mark.parametrize(("model", "dropout", "steps"), quick([*SHORT, *WHOLE], SHORT), indirect=["model"])
def test_five_different_trials_packed_train_as_each_does_alone(pack, model_folder, source, dropout, steps, joined):
    chosen = trials(model_folder, source, dropout)
    together = packed(pack, chosen, steps)
    assert any(joined)
    assert not all(joined)
    for recorded, trial in zip(together, chosen, strict=True):
        check_agreement(recorded, alone(*trial, steps))
    check_pads(pack, together)


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_learning_rates_by_depth_train_as_groups_of_the_optimizer_do_and_change_nobody_else(pack, model_folder, source):
    workload, spec = trials(model_folder, source)[0]
    sloped = TrialSpec.from_config(TrialConfig("layer_lr", params={"slope": 0.5}, learning_rate=1e-2, seed=4))
    chosen = [(workload, spec), (dataclasses.replace(workload, weight_decay=0.1), sloped)]
    for recorded, trial in zip(packed(pack, chosen, 20), chosen, strict=True):
        check_agreement(recorded, alone(*trial, 20))


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_learning_rates_by_depth_go_on_from_a_checkpoint_as_if_nothing_had_been(pack, model_folder, source, tmp_path):
    workload = trials(model_folder, source)[0][0]
    sloped = TrialSpec.from_config(TrialConfig("layer_lr", params={"slope": 0.5}, learning_rate=1e-2, seed=4))
    (whole,) = packed(pack, [(workload, sloped)], 12)
    (half,) = packed(pack, [(workload, sloped)], 6)
    half.slot.learner.save(tmp_path / "saved")
    again = pack.admit(workload, sloped)
    again.learner.load(tmp_path / "saved")
    while again.learner.step < 12:
        pack.step([again])
    expected = whole.slot.learner.adapter.weights
    assert all(torch.allclose(tensor, expected[name]) for name, tensor in again.learner.adapter.weights.items())


def check_pads(pack, recorded):
    """Beyond each trial's rank there must be zeros, bitwise."""
    slots = [r.slot for r in recorded]
    padded = 0
    for group in pack._groups(slots):
        for name, factors in pack._factors(group).items():
            for k, slot in enumerate(group):
                rank = slot.learner.adapter.ranks.get(name, 0)
                pads = torch.cat([factors.down[k, rank:].flatten(), factors.up[k, rank:].flatten()])
                assert not pads.view(torch.int32).any()
                padded += len(pads)
    assert padded


def small(model_folder, source, count=3):
    return [
        (dataclasses.replace(workload, epochs=4), dataclasses.replace(spec, seed=seed))
        for seed, (workload, spec) in enumerate(trials(model_folder, source)[:1] * count)
    ]


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
class TestNeighbours:
    @pytest.fixture
    def chosen(self, model_folder, source):
        return small(model_folder, source)

    def test_one_that_turns_nan_is_stopped_and_changes_nothing(self, pack, chosen):
        healthy = packed(pack, chosen[:2], 12)
        slots = [pack.admit(*trial) for trial in chosen]
        for step in range(12):
            if step == 5:
                with torch.no_grad():
                    slots[2].learner.parameters[0].fill_(math.nan)
            pack.step([slot for slot in slots if not slot.failure])
        assert "at step 5" in str(slots[2].failure)
        assert slots[2].learner.step == 5
        self.same(slots[:2], healthy)

    def test_one_that_is_stopped_or_replaced_midway_changes_nothing(self, pack, chosen):
        expected = packed(pack, chosen, 8)
        slots = [pack.admit(*trial) for trial in chosen[:2]]
        for _ in range(4):
            pack.step(slots)
        late = pack.admit(*chosen[2])
        for _ in range(4):
            pack.step([slots[0], late])
        for _ in range(4):
            pack.step([late])
        self.same([slots[0], late], [expected[0], expected[2]])
        assert slots[1].learner.step == 4

    def test_evaluation_together_is_evaluation_alone(self, pack, chosen):
        slots = [recorded.slot for recorded in packed(pack, chosen, 8)]
        together = pack.evaluate(slots, "validation")
        alone = [pack.evaluate([slot], "validation")[0] for slot in slots]
        for losses, separate in zip(together, alone, strict=True):
            assert losses == pytest.approx(separate, rel=1e-6)
        assert len({sum(losses) for losses in together}) == len(together)

    def test_a_pack_leaves_the_base_as_it_was(self, pack, chosen):
        before = {name: tensor.clone() for name, tensor in pack.base.model.state_dict().items()}
        packed(pack, chosen, 8)
        after = pack.base.model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_a_batch_that_is_no_multiple_of_the_micro_batch_is_refused(self, pack, chosen):
        workload, spec = chosen[0]
        with pytest.raises(ValueError, match="multiple of the micro-batch 4"):
            pack.admit(dataclasses.replace(workload, batch_size=6), spec)

    def test_a_solo_checkpoint_continues_in_a_slot_and_the_other_way_round(self, pack, chosen, tmp_path):
        unbroken = packed(pack, chosen[:1], 20)[0].slot
        solo = SoloSession(*chosen[0])
        solo.train(7)
        solo.save(tmp_path / "solo")
        solo.close()
        slot = pack.admit(*chosen[0])
        slot.learner.load(tmp_path / "solo")
        while slot.learner.step < 13:
            pack.step([slot])
        slot.learner.save(tmp_path / "slot")
        again = SoloSession(*chosen[0])
        again.load(tmp_path / "slot")
        again.train(7)
        again.close()
        for name, tensor in unbroken.learner.adapter.weights.items():
            assert torch.allclose(again.learner.adapter.weights[name], tensor, rtol=0, atol=1e-5)

    def test_a_slots_adapter_is_an_ordinary_peft_adapter(self, pack, chosen, model_folder, tmp_path):
        slot = packed(pack, chosen, 8)[0].slot
        slot.learner.adapter.save(tmp_path / "adapter")
        base = AutoModelForCausalLM.from_pretrained(model_folder)
        loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
        total = tokens = 0.0
        for example in pack.splits.validation:
            ids = torch.tensor([example.input_ids])
            total += loaded(input_ids=ids, labels=ids).loss.item() * example.learned_tokens
            tokens += example.learned_tokens
        loss = mean_loss(pack.splits.validation, pack.evaluate([slot], "validation")[0])
        assert loss == pytest.approx(total / tokens, abs=1e-5)

    @staticmethod
    def same(slots, recorded):
        for slot, reference in zip(slots, recorded, strict=True):
            for name, tensor in reference.slot.learner.adapter.weights.items():
                assert torch.allclose(slot.learner.adapter.weights[name], tensor, rtol=0, atol=1e-5)


@pytest.fixture
def upper(model_folder, source):
    """Three trials that adapt the upper block alone, with different seeds."""
    workload, spec = trials(model_folder, source)[2]
    return [(workload, dataclasses.replace(spec, seed=seed)) for seed in range(3)]


@pytest.mark.parametrize(
    "model", ["gpt2", *(pytest.param(model, marks=pytest.mark.thorough) for model in MODELS[1:])], indirect=True
)
def test_the_blocks_below_the_first_adapter_are_computed_once_per_example(pack, upper, monkeypatch):
    computed = []
    compute = pack.prefix._compute
    monkeypatch.setattr(pack.prefix, "_compute", lambda depth, e: computed.extend(e) or compute(depth, e))
    slots = [pack.admit(*trial) for trial in upper]
    assert {slot.prefix for slot in slots} == {1}
    for _ in range(20):
        pack.step(slots)
    assert len(computed) == len(set(computed)) == len(pack.splits.train)


LIMITS = [(model, limit_bytes) for model in MODELS for limit_bytes in (0, 2**30)]


@pytest.mark.parametrize(("model", "limit_bytes"), quick(LIMITS, [("gpt2", 0), *LIMITS[1::2]]), indirect=["model"])
def test_a_skipped_prefix_changes_no_loss(pack, upper, limit_bytes, joined):
    pack.prefix.left_bytes = limit_bytes
    slots = [recorded.slot for recorded in packed(pack, upper, 10)]
    assert any(joined)
    skipped = pack.evaluate(slots, "validation")
    assert bool(pack.prefix._cache) == bool(limit_bytes)
    for slot, (workload, spec), losses in zip(slots, upper, skipped, strict=True):
        solo = SoloSession(workload, spec)
        solo.learner.adapter.set_weights(slot.learner.adapter.weights)
        assert losses == pytest.approx(solo._evaluate(solo.splits.validation), abs=1e-4)
        solo.close()
