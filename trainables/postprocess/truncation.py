"""Truncation of a trained adapter: its smallest singular values are cut, over all sites together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from strategies import RankAllocation
from strategies.base import Site
from trainables.adapters import peft_adapter
from trainables.adapters.peft_adapter import Adapter
from trainables.data.splits import mean_loss
from trainables.spec import Workload
from trainables.training.inputs import base_of, splits_of
from trainables.training.losses import evaluate

FRACTIONS = (1.0, 0.9, 0.75, 0.5, 0.25)

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def shrink_curve(
    workload: Workload, ranks: Mapping[str, int], alphas: Mapping[str, float], folder: Path
) -> list[dict[str, Any]]:
    """Measure a trained adapter on the test split at falling numbers of parameters.

    Args:
        workload: The workload that it was trained on.
        ranks: Site -> rank, zeros included.
        alphas: Adapted site -> alpha.
        folder: Folder of its weights.

    Returns:
        A mapping for each of ``FRACTIONS``: ``fraction``, ``params`` (the remaining ones) and ``test_loss``.
    """
    base = base_of(workload)
    splits = splits_of(workload)
    by_name = {site.name: site for site in base.sites}
    params = sum(by_name[name].cost * rank for name, rank in ranks.items())
    model = peft_adapter.attach(base.model, RankAllocation(ranks, params), alphas)
    try:
        adapter = peft_adapter.read(model)
        adapter.set_weights(peft_adapter.load_weights(folder))
        scales = adapter.scales
        whole = {name: (a.detach().clone(), b.detach() * scales[name]) for name, (a, b) in adapter.factors.items()}
        curve = []
        for fraction in FRACTIONS:
            truncated = shrunk(whole, base.sites, int(fraction * params)) if fraction < 1 else whole
            _put(adapter, truncated)
            remaining = sum(by_name[name].cost * len(a) for name, (a, _) in truncated.items())
            loss = mean_loss(splits.test, evaluate(base, splits.test, workload.batch_size))
            curve.append({"fraction": fraction, "params": remaining, "test_loss": loss})
        return curve
    finally:
        peft_adapter.detach(model)


def shrunk(factors: Factors, sites: Sequence[Site], params: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors of lower rank that are closest to given ones, within a number of parameters.

    Singular directions are kept in descending order of squared singular value per parameter, over all sites together.

    Args:
        factors: Site -> (A of shape (rank, d_in), B of shape (d_out, rank), its scale multiplied in).
        sites: The sites.
        params: Parameters to stay within.

    Returns:
        Site -> (A, B); a site of rank 0 is omitted.

    Source:
        Eckart and Young (1936) for one matrix. QR of both factors first, so that only (rank, rank) is decomposed.
    """
    costs = {site.name: site.cost for site in sites}
    parts, queue = {}, []
    for name, (a, b) in factors.items():
        q_a, r_a = torch.linalg.qr(a.double().t())
        q_b, r_b = torch.linalg.qr(b.double())
        u, s, v = torch.linalg.svd(r_b @ r_a.t())
        parts[name] = (q_b @ u, s, v @ q_a.t())
        queue += [(-(value**2) / costs[name], name) for value in s.tolist()]
    ranks, remaining = dict.fromkeys(factors, 0), params
    for _, name in sorted(queue):
        if costs[name] <= remaining:
            ranks[name], remaining = ranks[name] + 1, remaining - costs[name]
    return {name: _factors(*parts[name], rank, factors[name][0].dtype) for name, rank in ranks.items() if rank}


def _factors(
    u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, rank: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]).to(dtype), (u[:, :rank] * root).to(dtype)


def _put(adapter: Adapter, factors: Factors) -> None:
    """Copy smaller factors of scale 1 into an adapter's tensors, with zeros for the rows that were cut."""
    with torch.no_grad():
        for name, (a, b) in adapter.factors.items():
            a.zero_(), b.zero_()
            if name in factors:
                small_a, small_b = factors[name]
                a[: len(small_a)].copy_(small_a)
                b[:, : small_b.shape[1]].copy_(small_b / adapter.scales[name])
