"""Truncation of a trained adapter: its smallest singular values are cut, over all sites together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from strategies.base import Site
from trainables.adapters.adapter import Adapter
from trainables.adapters.saved_config import read_folder
from trainables.data.splits import mean_loss
from trainables.engine.evaluation import losses_of
from trainables.spec import Workload
from trainables.training.inputs import base_of, splits_of

FRACTIONS = (1.0, 0.9, 0.75, 0.5, 0.25)

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def shrink_curve(workload: Workload, folder: Path) -> list[dict[str, Any]]:
    """Measure a trained adapter on the test split at falling numbers of parameters, all of them in the same passes.

    Args:
        workload: The workload that it was trained on.
        folder: Folder that ``Adapter.save`` wrote.

    Returns:
        A mapping for each of ``FRACTIONS``: ``fraction``, ``params`` (the remaining ones) and ``test_loss``.
    """
    base, examples, trained = base_of(workload), splits_of(workload).test, read_folder(folder)
    whole = {name: (a, b * trained.scales[name]) for name, (a, b) in trained.factors.items()}
    costs = {site.name: site.cost for site in base.sites}
    params = _params(whole, costs)
    sizes = [whole if part == 1 else shrunk(whole, base.sites, int(part * params)) for part in FRACTIONS]
    adapters = [Adapter(trained.config, factors, dict.fromkeys(factors, 1.0)) for factors in sizes]
    losses = losses_of(base, adapters, examples, workload.micro_batch)
    return [
        {"fraction": part, "params": _params(factors, costs), "test_loss": mean_loss(examples, sums)}
        for part, factors, sums in zip(FRACTIONS, sizes, losses, strict=True)
    ]


def _params(factors: Factors, costs: Mapping[str, int]) -> int:
    return sum(costs[name] * len(a) for name, (a, _) in factors.items())


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
