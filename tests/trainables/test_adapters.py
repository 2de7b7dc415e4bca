"""What is planned is what is built, on every architecture, or the trial stops."""

import dataclasses

import peft
import pytest
import torch

from strategies import RankBudget, allocate
from strategies.linear_decay import LinearDecay
from trainables.adapters import peft_adapter
from trainables.adapters.adapter import AllocationMismatch
from trainables.data.splits import DataSource
from trainables.models.base_model import BaseModel
from trainables.models.matrices import coverage_of, sites_of
from trainables.spec import TrialSpec, Workload


def planned(model, rank=3, slope=1.0):
    sites = sites_of(model)
    allocation = allocate(LinearDecay(slope).scores(sites, {}), sites, RankBudget.like_uniform(rank, sites))
    return allocation, {name: 2.0 * r for name, r in allocation.adapted.items()}


def test_ranks_and_scales_are_exactly_the_planned_ones_zero_included(model):
    allocation, alphas = planned(model)
    wrapped = peft_adapter.attach(model, allocation, alphas)
    assert peft_adapter.read_back(wrapped) == {name: (rank, 2.0) for name, rank in allocation.adapted.items()}
    assert 0 in allocation.ranks.values()


def test_the_untrained_adapter_changes_nothing_and_detach_gives_the_base_back(model):
    ids = torch.arange(12).view(2, 6)
    before, names = model(ids).logits, [name for name, _ in model.named_modules()]
    wrapped = peft_adapter.attach(model, *planned(model))
    assert torch.equal(wrapped(input_ids=ids).logits, before)
    peft_adapter.detach(wrapped)
    assert [name for name, _ in model.named_modules()] == names
    assert torch.equal(model(ids).logits, before)


def test_every_block_has_attention_and_mlp_sites_and_no_output_embedding(model):
    sites = sites_of(model)
    assert {(site.depth, site.kind) for site in sites} == {(d, k) for d in (0, 1) for k in ("attention", "mlp")}
    assert not any("head" in site.name or "embed_out" in site.name for site in sites)


def test_an_adapter_saved_and_loaded_by_plain_peft_gives_the_same_logits(model, tmp_path):
    ids = torch.arange(12).view(2, 6)
    wrapped = peft_adapter.attach(model, *planned(model))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    expected = wrapped(input_ids=ids).logits
    peft_adapter.read(wrapped).save(tmp_path)
    peft_adapter.detach(wrapped)
    loaded = peft.PeftModel.from_pretrained(model, str(tmp_path))
    assert torch.allclose(loaded(input_ids=ids).logits, expected, atol=1e-6)


def test_the_bug_of_the_seed_study_is_caught_when_only_the_first_rank_is_applied(model, monkeypatch):
    """That study built one configuration per layer and applied the first to all of them."""
    honest = peft_adapter.lora_config

    def first_only(*arguments):
        config = honest(*arguments)
        config.r = next(iter(config.rank_pattern.values()))
        config.lora_alpha = 2 * config.r
        config.rank_pattern, config.alpha_pattern = {}, {}
        return config

    monkeypatch.setattr(peft_adapter, "lora_config", first_only)
    with pytest.raises(AllocationMismatch, match="planned rank"):
        peft_adapter.attach(model, *planned(model, slope=0.5))


def test_a_wrong_scale_is_caught(model, monkeypatch):
    honest = peft_adapter.lora_config

    def unscaled(*arguments):
        config = honest(*arguments)
        config.alpha_pattern = {}
        return config

    monkeypatch.setattr(peft_adapter, "lora_config", unscaled)
    with pytest.raises(AllocationMismatch, match="planned scale"):
        peft_adapter.attach(model, *planned(model))


def test_trainable_parameters_that_nobody_planned_are_caught(model):
    allocation, alphas = planned(model)
    with pytest.raises(AllocationMismatch, match="trainable parameters"):
        peft_adapter.attach(model, dataclasses.replace(allocation, params=allocation.params + 1), alphas)


def test_a_site_adapted_without_a_plan_is_caught(model):
    allocation, alphas = planned(model)
    wrapped = peft_adapter.attach(model, allocation, alphas)
    name = next(iter(allocation.adapted))
    fewer = dataclasses.replace(allocation, ranks={**allocation.ranks, name: 0})
    with pytest.raises(AllocationMismatch, match="planned rank 0"):
        peft_adapter.audit(peft_adapter.read_back(wrapped), allocation.params, fewer, alphas)


@pytest.fixture
def base(model, tiny_tokenizer):
    return BaseModel(model, tiny_tokenizer, coverage_of(model), 0, "cpu", True, None)


@pytest.fixture
def workload(base):
    return Workload("any", DataSource(), RankBudget.like_uniform(3, base.sites), 1.0, 4, 1, scale=2.0, dropout=0.1)


TRIAL = TrialSpec("linear_decay", LinearDecay(1.0), learning_rate=0.01, scaling="alpha/r", seed=5)


def test_an_adapter_made_apart_from_the_model_is_the_one_that_peft_makes(base, workload):
    fresh = peft_adapter.fresh_planned(base, workload, TRIAL)
    wrapped = peft_adapter.attach_planned(base, workload, TRIAL)
    made = peft_adapter.read(wrapped)
    assert list(fresh.weights) == list(made.weights)
    assert all(torch.equal(fresh.weights[name], tensor) for name, tensor in made.weights.items())
    assert all(tensor.requires_grad for tensor in fresh.parameters)
    assert fresh.scales == made.scales
    assert fresh.config.to_dict() == made.config.to_dict()


def test_an_adapter_made_apart_from_the_model_is_audited(base, workload, monkeypatch):
    honest = peft_adapter._fresh_factors
    monkeypatch.setattr(peft_adapter, "_fresh_factors", lambda site, rank, device: honest(site, rank + 1, device))
    with pytest.raises(AllocationMismatch, match="planned rank"):
        peft_adapter.fresh_planned(base, workload, TRIAL)
