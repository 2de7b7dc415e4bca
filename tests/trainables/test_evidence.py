"""Measurements of the frozen base against the same worked out by hand."""

import pytest
import torch

from strategies.empirical import EVIDENCE_KINDS
from trainables.data.collate import Batch
from trainables.data.splits import IGNORED
from trainables.evidence.importance import measure_batches
from trainables.models.matrices import sites_of


def batch(*rows, padding=0):
    length = max(map(len, rows)) + padding
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return Batch(ids, mask, ids.masked_fill(mask == 0, IGNORED))


def gradients(model, sites, rows):
    """Return each site's weight gradient of the mean loss, by plain PyTorch."""
    weights = [model.get_submodule(site.name).weight.requires_grad_() for site in sites]
    loss = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=rows.labels).loss
    slopes = torch.autograd.grad(loss, weights)
    for weight in weights:
        weight.requires_grad_(False)
    return {site.name: (weight, slope) for site, weight, slope in zip(sites, weights, slopes, strict=True)}


def test_every_kind_is_what_its_formula_says(model):
    sites, rows = sites_of(model), batch([5, 6, 7, 8], [9, 10, 11])
    measured = measure_batches(model, sites, [rows])
    assert list(measured) == list(EVIDENCE_KINDS)
    for name, (weight, slope) in gradients(model, sites, rows).items():
        d_in = next(site.d_in for site in sites if site.name == name)
        assert measured["gradient"][name] == pytest.approx(slope.square().sum().item() / d_in, rel=1e-3)
        assert measured["fisher"][name] == pytest.approx(slope.square().mean().item(), rel=1e-3)
        assert measured["sensitivity"][name] == pytest.approx((weight * slope).abs().mean().item(), rel=1e-3)


def test_batches_count_alike_and_padding_does_not_count(model):
    sites, first, second = sites_of(model), batch([5, 6, 7, 8]), batch([9, 10, 11])
    alone = [measure_batches(model, sites, [rows]) for rows in (first, second)]
    together = measure_batches(model, sites, [first, second])
    for kind in EVIDENCE_KINDS:
        for site in sites:
            mean = (alone[0][kind][site.name] + alone[1][kind][site.name]) / 2
            assert together[kind][site.name] == pytest.approx(mean, rel=1e-4)
    padded = measure_batches(model, sites, [batch([5, 6, 7, 8], padding=5)])
    for kind in EVIDENCE_KINDS:
        assert padded[kind] == pytest.approx(alone[0][kind], rel=1e-3)


def test_the_model_is_left_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_batches(model, sites_of(model), [batch([5, 6, 7, 8])])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
