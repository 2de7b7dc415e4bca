"""AdaLoRA as PEFT has it, within a budget of parameters, alone and beside others."""

import dataclasses

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from tests.reference import SoloSession
from trainables.adapters import peft_adapter
from trainables.adapters.adapter import AllocationMismatch
from trainables.data.collate import collate
from trainables.data.splits import DataSource, load_splits, mean_loss
from trainables.engine.pack import Pack
from trainables.models.base_model import load
from trainables.spec import TrialSpec, Workload
from trainables.training.inputs import base_of
from trainables.training.session import next_report
from trainables.training.triplets import CostAllocator

OWN = {"initial": 1.5, "orthogonal": 0.3, "start": 0.2, "final": 0.3}
BOTH = pytest.mark.parametrize("model", ["gpt2", pytest.param("llama-gqa", marks=pytest.mark.thorough)], indirect=True)


@pytest.fixture
def source(tiny_text):
    return DataSource(dataset=str(tiny_text), train_examples=20, validation_examples=6, test_examples=6, max_length=24)


def workload_on(folder, source, rank=2):
    return Workload(
        str(folder), source, RankBudget.like_uniform(rank, load(str(folder)).sites), epochs=4, batch_size=4,
        reports=2, scale=2.0,
    )  # fmt: skip


def trial(strategy="adalora", seed=0, **params):
    params = {**OWN, **params} if strategy == "adalora" else params
    return TrialSpec.from_config(TrialConfig(strategy, params=params, learning_rate=0.02, seed=seed))


def reference(folder, learner, target_rank=1):
    """Return PEFT's own AdaLoRA on a model of its own, with the learner's triplets as its initial ones."""
    strategy = learner.parametrization.strategy
    phases = strategy.phases(learner.workload.steps)
    start = next(iter(learner.adapter.ranks.values()))
    config = peft.AdaLoraConfig(
        task_type="CAUSAL_LM", init_r=start, target_r=target_rank, tinit=phases.start, tfinal=phases.final,
        deltaT=phases.every, total_step=learner.workload.steps, orth_reg_weight=strategy.orthogonal,
        lora_alpha=learner.workload.scale * (start + 1e-5), target_modules=learner.adapter.config.target_modules,
        fan_in_fan_out=learner.adapter.config.fan_in_fan_out,
    )  # fmt: skip
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = peft.get_peft_model(network, config).eval()
    triplets = dict(learner.parametrization.triplets.named_parameters())
    with torch.no_grad():
        for name, parameter in model.base_model.model.named_parameters():
            if name in triplets:
                parameter.copy_(triplets.pop(name))
    assert not triplets
    return model


@pytest.fixture
def square_llama(tmp_path, tiny_tokenizer):
    """A model whose matrices all cost the same, so that counting ranks and counting parameters are one thing."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "square")
    tiny_tokenizer.save_pretrained(tmp_path / "square")
    return tmp_path / "square"


def test_where_all_ranks_cost_the_same_it_trains_as_pefts_own(square_llama, source):
    workload = dataclasses.replace(workload_on(square_llama, source, rank=1), clip_norm=0.5)
    session = SoloSession(workload, trial(initial=3))
    learner = session.learner
    model = reference(square_llama, learner)
    parameters = {n: p for n, p in model.base_model.model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=0.0)
    train = load_splits(source, workload.model).train
    pruned = []
    for step, rows in enumerate(learner.order):
        session.train(1)
        batch = collate([train[index] for index in rows], load(workload.model).pad_id)
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), workload.clip_norm)
        optimizer.param_groups[0]["lr"] = learner.optimizer.param_groups[0]["lr"]
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
        for name, tensor in learner.parametrization.triplets.named_parameters():
            assert torch.allclose(tensor, parameters[name], rtol=0, atol=2e-5), (step, name)
        pruned.append(
            sum(int((t == 0).sum()) for n, t in learner.parametrization.triplets.named_parameters() if "lora_E" in n)
        )
    assert pruned[:4] == [0] * 4
    assert pruned[4:14] == sorted(pruned[4:14])
    assert pruned[13:] == [2 * 7] * 7  # rank 3 at 7 matrices, 1 on average at the end
    session.close()


@BOTH
def test_what_is_saved_is_a_plain_adapter_with_the_logits_of_pefts_adalora(model_folder, source, tmp_path):
    session = SoloSession(workload_on(model_folder, source), trial())
    session.train(20)
    session.save(tmp_path / "saved")
    learner = session.learner
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = reference(model_folder, learner)(input_ids=ids).logits
        live = session.model(input_ids=ids).logits
        session.close()
        base = AutoModelForCausalLM.from_pretrained(model_folder)
        plain = base(input_ids=ids).logits
        saved = peft.PeftModel.from_pretrained(base, str(tmp_path / "saved" / "adapter")).eval()
        logits = saved(input_ids=ids).logits
    assert torch.allclose(live, expected, rtol=0, atol=1e-5)
    assert torch.allclose(logits, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(logits, plain, atol=1e-3)
    assert {n: r for n, (r, _) in peft_adapter.read_back(saved).items()} == {
        name: rank for name, rank in learner.facts["ranks"].items() if rank
    }


@BOTH
def test_it_starts_above_the_budget_and_ends_within_it_and_reports_what_is_there(model_folder, source):
    workload = workload_on(model_folder, source)
    session = SoloSession(workload, trial())
    learner, costs = session.learner, {site.name: site.cost for site in load(str(model_folder)).sites}
    assert set(learner.facts["ranks"].values()) == {3}
    assert learner.facts["trainable_parameters"] == workload.budget.params * 3 / 2
    next_report(session)
    last = next_report(session)
    assert last["status"] == "finished"
    ranks = learner.facts["ranks"]
    assert len(set(ranks.values())) > 1
    assert last["trainable_parameters"] == sum(costs[name] * rank for name, rank in ranks.items())
    assert workload.budget.params - min(costs.values()) < last["trainable_parameters"] <= workload.budget.params
    for name, (a, _) in peft_adapter.read(session.model).factors.items():
        assert int(a.any(1).sum()) == ranks[name]
    session.close()


@pytest.fixture
def exactly(model_folder, source):
    """A workload that computes in float64: AdamW makes of rounding near a gradient of 0 a step of its own."""
    workload, before = workload_on(model_folder, source), torch.get_default_dtype()
    base = base_of(workload).model.double()
    torch.set_default_dtype(torch.float64)
    yield workload
    torch.set_default_dtype(before)
    base.float()  # which other tests have from the cache


@BOTH
def test_beside_others_it_trains_as_alone_and_they_do_not_notice(exactly):
    workload = exactly
    chosen = [trial("linear_decay", 1, slope=1.0), trial(seed=2), trial("baseline", 3)]
    expected = [trained_alone(workload, spec) for spec in chosen]
    pack = Pack.of(workload, 2)
    slots = [pack.admit(workload, spec) for spec in chosen]
    while not slots[0].learner.done:
        pack.step(slots)
    for slot, losses, (weights, alone) in zip(slots, pack.evaluate(slots, "validation"), expected, strict=True):
        assert mean_loss(pack.splits.validation, losses) == pytest.approx(alone, abs=1e-9)
        trained = slot.learner.outcome.weights
        assert trained.keys() == weights.keys()
        assert all(torch.allclose(trained[name], tensor, rtol=0, atol=1e-9) for name, tensor in weights.items())


def trained_alone(workload, spec):
    session = SoloSession(workload, spec)
    loss = session.train(workload.steps).eval_loss
    weights = {name: tensor.detach().clone() for name, tensor in session.learner.outcome.weights.items()}
    session.close()
    return weights, loss


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
@pytest.mark.parametrize("steps", [0, 2, 9, 17])
def test_it_continues_from_before_while_and_after_pruning_as_if_unbroken(model_folder, source, tmp_path, steps):
    workload = workload_on(model_folder, source)
    unbroken = SoloSession(workload, trial())
    unbroken.train(steps)
    unbroken.save(tmp_path / "saved")
    unbroken.train(20)
    weights = {name: tensor.clone() for name, tensor in unbroken.learner.outcome.weights.items()}
    unbroken.close()
    pack = Pack.of(workload, 4)
    slot = pack.admit(workload, trial())
    slot.learner.load(tmp_path / "saved")
    assert slot.learner.step == steps
    while not slot.learner.done:
        pack.step([slot])
    trained = slot.learner.outcome.weights
    assert trained.keys() == weights.keys()
    assert all(torch.allclose(trained[name], tensor, rtol=0, atol=1e-5) for name, tensor in weights.items())


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_a_checkpoint_of_another_pruning_is_refused(model_folder, source, tmp_path):
    workload = workload_on(model_folder, source)
    pack = Pack.of(workload, 4)
    pack.admit(workload, trial()).learner.save(tmp_path / "saved")
    other = pack.admit(workload, trial(final=0.5)).learner
    with pytest.raises(ValueError, match="allocation"):
        other.load(tmp_path / "saved")


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_a_step_that_is_begun_again_counts_nothing_twice(model_folder, source):
    workload = workload_on(model_folder, source)
    pack = Pack.of(workload, 2)
    slots = [pack.admit(workload, trial()) for _ in range(2)]
    pack.step(slots[:1])  # half of its batch
    slots[0].begin_again()
    for _ in range(4):
        pack.step(slots[:1]), pack.step(slots[1:])
    weights = [slot.learner.outcome.weights for slot in slots]
    assert slots[0].learner.step == slots[1].learner.step == 2
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
@pytest.mark.parametrize(("share", "steps"), [(0.5, 20), (1.0, 3), (1.0, 1)])
def test_it_ends_within_the_trials_own_share_of_the_budget_however_short_it_is(model_folder, source, share, steps):
    workload = dataclasses.replace(workload_on(model_folder, source), epochs=steps * 4 / 20)
    config = TrialConfig("adalora", params=OWN, learning_rate=0.02, budget_share=share, seed=0)
    session = SoloSession(workload, TrialSpec.from_config(config))
    assert session.learner.facts["trainable_parameters"] > share * workload.budget.params
    assert session.train(steps).step == workload.steps == steps
    spent = session.learner.facts["trainable_parameters"]
    session.close()
    assert 0.8 * share * workload.budget.params < spent <= share * workload.budget.params


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_a_trial_that_ends_over_its_budget_is_no_result(model_folder, source, monkeypatch):
    monkeypatch.setattr(CostAllocator, "after", lambda self, step, triplets: None)
    session = SoloSession(workload_on(model_folder, source), trial())
    with pytest.raises(AllocationMismatch, match="the budget is"):
        session.train(20)
    session.close()
