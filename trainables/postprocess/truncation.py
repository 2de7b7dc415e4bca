"""How small the trained adapter can be: its singular values cut, the largest kept wherever they are."""

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
        workload: What it was trained in.
        ranks: Site -> rank, zeros included.
        alphas: Adapted site -> alpha.
        folder: Where its weights are.

    Returns:
        A mapping for each of ``FRACTIONS``: ``fraction``, ``params`` (what is left) and ``test_loss``.
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
        found = []
        for fraction in FRACTIONS:
            kept = shrunk(whole, base.sites, int(fraction * params)) if fraction < 1 else whole
            _put(adapter, kept)
            left = sum(by_name[name].cost * len(a) for name, (a, _) in kept.items())
            loss = mean_loss(splits.test, evaluate(base, splits.test, workload.batch_size))
            found.append({"fraction": fraction, "params": left, "test_loss": loss})
        return found
    finally:
        peft_adapter.detach(model)


def shrunk(factors: Factors, sites: Sequence[Site], params: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors of lower rank that are closest to given ones, within a number of parameters.

    Singular directions are kept in the order of squared singular value per parameter, over all sites together.

    Args:
        factors: Site -> (A of shape (rank, d_in), B of shape (d_out, rank), its scale multiplied in).
        sites: The sites.
        params: Parameters to stay within.

    Returns:
        Site -> (A, B); a site that keeps nothing is left out.

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
    kept, left = dict.fromkeys(factors, 0), params
    for _, name in sorted(queue):
        if costs[name] <= left:
            kept[name], left = kept[name] + 1, left - costs[name]
    return {name: _factors(*parts[name], count, factors[name][0].dtype) for name, count in kept.items() if count}


def _factors(
    u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, count: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    root = s[:count].sqrt()
    return (root[:, None] * v[:count]).to(dtype), (u[:, :count] * root).to(dtype)


def _put(adapter: Adapter, factors: Factors) -> None:
    """Put smaller factors of scale 1 into an adapter's tensors, zeros in the place of what was cut."""
    with torch.no_grad():
        for name, (a, b) in adapter.factors.items():
            a.zero_(), b.zero_()
            if name in factors:
                small_a, small_b = factors[name]
                a[: len(small_a)].copy_(small_a)
                b[:, : small_b.shape[1]].copy_(small_b / adapter.scales[name])
