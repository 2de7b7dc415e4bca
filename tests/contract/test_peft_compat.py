"""PEFT still has the classes that its AdaLoRA and its EVA are made of, and they compute what these compute."""

import peft
import pytest
import torch
from peft.tuners.lora import eva

from trainables.adapters.peft_compat import PARTS, SEED, Importance, PrincipalComponents


@pytest.fixture
def adapted():
    """A model of PEFT's AdaLoRA with two matrices of rank 4, to be pruned to 2, and singular values that are not 0."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    phases = {"total_step": 10, "tinit": 2, "tfinal": 3, "deltaT": 2}
    model = peft.get_peft_model(model, peft.AdaLoraConfig(target_modules=["0", "1"], init_r=4, target_r=2, **phases))
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if PARTS[1] in name:
                tensor.normal_()
    return model


def train(model, step):
    model.zero_grad()
    torch.manual_seed(step)
    model(torch.randn(8, 6)).square().mean().backward()


def test_the_budget_falls_when_and_as_far_as_in_pefts_adalora(adapted):
    ours, theirs = Importance(adapted.peft_config["default"], "default", (8, 4)), adapted.base_model.rankallocator
    for step in range(1, 8):
        train(adapted, step)
        budget, kept = theirs.update_and_allocate(adapted, step)
        assert ours.budget_at(step) == (budget, kept is not None)
    assert [ours.budget_at(step)[0] for step in (2, 5, 10)] == [8, 4, 4]


def test_what_pefts_adalora_keeps_is_what_has_the_highest_importance(adapted):
    ours, theirs = Importance(adapted.peft_config["default"], "default", (8, 4)), adapted.base_model.rankallocator
    for step in range(1, 4):
        train(adapted, step)
        ours.update(adapted)
        theirs.update_ipt(adapted)
    for budget in range(1, 8):
        masks = theirs.mask_to_budget(adapted, budget)
        worth = torch.cat([ours.of(name.partition(f".{PARTS[1]}")[0]) for name in masks])
        kept = torch.cat([torch.tensor(mask) for mask in masks.values()])
        assert kept.sum() == budget
        assert worth[kept].min() > worth[~kept].max()


def test_importance_is_smoothed_sensitivity_times_its_spread():
    model = torch.nn.Module()
    for part, shape, value in zip(PARTS, ((2, 3), (2, 1), (4, 2)), (1.0, 2.0, 3.0), strict=True):
        tensor = torch.nn.Parameter(torch.full(shape, value))
        tensor.grad = torch.full(shape, 0.5)
        model.register_module(part, torch.nn.ParameterDict({"default": tensor}))
    ours = Importance(peft.AdaLoraConfig(total_step=10), "default", (2, 1))
    ours.update(torch.nn.ModuleDict({"a": model}))
    # |w g| = 0.5, 1 and 1.5; its average after a step is 0.15 of it, the spread 0.15 * 0.85 of it
    expected = 0.15 * 0.15 * 0.85 * (0.5**2 + 1.0**2 + 1.5**2)
    assert ours.of("a").tolist() == pytest.approx([expected, expected])


def test_importance_goes_on_from_its_averages_as_if_unbroken_and_can_be_forgotten(adapted):
    config = adapted.peft_config["default"]
    whole, first, second = (Importance(config, "default", (8, 4)) for _ in range(3))
    assert whole.averages == ({}, {})
    for step in range(1, 5):
        train(adapted, step)
        whole.update(adapted)
        (first if step < 3 else second).update(adapted)
        if step == 2:
            second.restore(*first.averages)
    for expected, averages in zip(whole.averages, second.averages, strict=True):
        assert expected.keys() == averages.keys()
        assert all(torch.equal(expected[name], averages[name]) for name in expected)
    whole.forget()
    assert whole.averages == ({}, {})


@pytest.mark.parametrize("low_rank", [False, True])
def test_components_are_those_that_pefts_eva_finds_and_their_shares_are_of_the_variance(low_rank):
    torch.manual_seed(0)
    batches = [torch.randn(40, 12) * torch.linspace(3, 0.1, 12) + 1 for _ in range(3)]
    fit = PrincipalComponents(3, low_rank)
    theirs = eva.IncrementalPCA(3, lowrank=low_rank, lowrank_seed=SEED)
    for batch in batches:
        fit.add(batch)
        theirs.partial_fit(batch)
    assert torch.equal(fit.components, theirs.components_)
    centred = torch.cat(batches) - torch.cat(batches).mean(0)
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    assert torch.cosine_similarity(fit.components.float(), vectors[:3]).abs().min() > 0.98
    assert fit.components.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    assert fit.ratios.tolist() == pytest.approx((values**2 / (values**2).sum())[:3].tolist(), rel=0.05)


def test_what_never_varies_has_no_share_of_the_variance():
    fit = PrincipalComponents(3, False)
    for _ in range(2):
        fit.add(torch.zeros(40, 12))
    assert fit.ratios.tolist() == [0, 0, 0]
