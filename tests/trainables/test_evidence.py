"""Measurements of the frozen base against the same worked out by hand."""

from dataclasses import replace

import pytest
import torch

from strategies import RankBudget
from strategies.empirical import EVIDENCE_KINDS, IMPORTANCE
from trainables.data.collate import Batch
from trainables.data.splits import IGNORED, DataSource
from trainables.evidence import importance, measurements
from trainables.evidence.importance import measure_batches
from trainables.models.base_model import load
from trainables.models.matrices import sites_of
from trainables.models.probes import separable_head
from trainables.spec import Workload


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


@pytest.mark.parametrize("held", [1, importance.HELD])
def test_a_batch_in_parts_gives_the_same_in_passes_of_no_more_rows(model, held, monkeypatch):
    monkeypatch.setattr(importance, "HELD", held)
    sites, rows = sites_of(model), batch([5, 6, 7, 8, 9], [9, 10, 11], [12, 13, 14, 15], padding=2)
    whole = measure_batches(model, sites, [rows, batch([16, 17, 18])])
    widths = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: widths.append(len(inputs[0])))
    parts = measure_batches(model, sites, [rows, batch([16, 17, 18])], 2, separable_head(model))
    handle.remove()
    for kind in EVIDENCE_KINDS:
        assert parts[kind] == pytest.approx(whole[kind], rel=1e-4, abs=1e-6)
    assert max(widths) == 2


def test_what_is_measured_has_the_rows_that_were_planned(tiny_gpt2, tiny_text, monkeypatch):
    data = DataSource(str(tiny_text), train_examples=16, validation_examples=4, test_examples=4, max_length=32)
    budget = RankBudget.like_uniform(2, load(str(tiny_gpt2)).sites)
    workload = Workload(str(tiny_gpt2), data, budget, 1, 8, 1, 1.0, rows_per_pass=2)
    seen = []
    monkeypatch.setattr(importance, "measure_batches", lambda *arguments: seen.append(arguments[-2:]) or {})
    measurements.measure(workload, IMPORTANCE)
    measurements.measure(replace(workload, pack_size=8), IMPORTANCE)
    assert seen == [(2, True), (8, True)]


def test_the_model_is_left_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_batches(model, sites_of(model), [batch([5, 6, 7, 8])])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
