"""An allocation as a PEFT adapter: attach it, read it back, cut it, detach it."""

import math
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer

from strategies import RankAllocation
from strategies.base import Site
from strategies.measurement import Initialize
from trainables.adapters import naming
from trainables.adapters.adapter import Adapter, AllocationMismatch
from trainables.models.base_model import BaseModel
from trainables.models.frozen_linear import FrozenLinear
from trainables.spec import TrialSpec, Workload

ADAPTER = "default"


def attach_planned(base: BaseModel, workload: Workload, spec: TrialSpec) -> Any:
    """Attach the adapter that a trial plans, its initial weights drawn from the trial's seed.

    Raises:
        AllocationMismatch: As ``attach``.
    """
    allocation, alphas = _plan(base, workload, spec)
    torch.manual_seed(spec.seed)
    model = attach(base.model, allocation, alphas, workload.dropout)
    _initialise(base, workload, spec, read(model).factors)
    return model


def fresh_planned(base: BaseModel, workload: Workload, spec: TrialSpec) -> Adapter:
    """Return the same adapter as ``attach_planned``, apart from any model: PEFT takes 50 ms to wrap even a small one.

    Raises:
        AllocationMismatch: As ``attach``.
    """
    allocation, alphas = _plan(base, workload, spec)
    torch.manual_seed(spec.seed)
    factors = {
        site.name: _fresh_factors(site, allocation.ranks[site.name], base.device)
        for site in base.sites
        if allocation.ranks[site.name]
    }
    _initialise(base, workload, spec, factors)
    config = lora_config(base.model, allocation, alphas, workload.dropout)
    config.base_model_name_or_path = base.model.name_or_path or None
    adapter = Adapter(config, factors, {name: alphas[name] / len(a) for name, (a, _) in factors.items()})
    audit(adapter.applied, sum(tensor.numel() for tensor in adapter.parameters), allocation, alphas)
    return adapter


def _plan(base: BaseModel, workload: Workload, spec: TrialSpec) -> tuple[RankAllocation, dict[str, float]]:
    allocation = spec.allocation(base.sites, workload.budget, workload.evidence)
    return allocation, spec.alphas(allocation, base.sites, workload.scale)


def _fresh_factors(site: Site, rank: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B as PEFT initialises them, after the same draws."""
    a = torch.nn.Linear(site.d_in, rank, bias=False)
    b = torch.nn.Linear(rank, site.d_out, bias=False)
    torch.nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5))
    torch.nn.init.zeros_(b.weight)
    return a.weight.detach().to(device).requires_grad_(), b.weight.detach().to(device).requires_grad_()


def _initialise(
    base: BaseModel, workload: Workload, spec: TrialSpec, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Have each A begin as the strategy's initializer says; B is zero.

    Raises:
        AllocationMismatch: It says nothing for a site's rank, or something of another shape.
    """
    if spec.strategy is None or spec.strategy.initializer is None:
        return
    initial: Initialize = pkgutil.resolve_name(spec.strategy.initializer)
    tensors = workload.tensors.get(spec.strategy.measurement or "", {})
    for site in base.sites:
        if site.name in factors:
            _begin_as(factors[site.name][0], site, initial, tensors)


@torch.no_grad()
def _begin_as(a: torch.Tensor, site: Site, initial: Initialize, tensors: Mapping[str, torch.Tensor]) -> None:
    try:
        rows = torch.as_tensor(initial(site, len(a), tensors))
    except ValueError as error:
        raise AllocationMismatch(str(error)) from error
    if rows.shape != a.shape:
        raise AllocationMismatch(f"{site.name}: A is {tuple(a.shape)}, what it is to begin as is {tuple(rows.shape)}")
    a.copy_(rows)


def attach(
    model: torch.nn.Module, allocation: RankAllocation, alphas: Mapping[str, float], dropout: float = 0.0
) -> Any:
    """Wrap ``model`` with LoRA of exactly the planned ranks and scales, and audit the result.

    Args:
        model: The frozen base; its targeted layers are replaced in place until ``detach``.
        allocation: Rank per site; sites of rank 0 are unchanged.
        alphas: LoRA's alpha per adapted site; the scale is alpha / rank.
        dropout: Dropout before A.

    Returns:
        The ``PeftModel``, in evaluation mode.

    Raises:
        AllocationMismatch: A rank, a scale, a shape or the number of trainable parameters differs from the plan.
    """
    model_with_adapter = peft.get_peft_model(model, lora_config(model, allocation, alphas, dropout))
    try:
        trainable = sum(p.numel() for p in model_with_adapter.parameters() if p.requires_grad)
        audit(read_back(model_with_adapter), trainable, allocation, alphas)
    except AllocationMismatch:
        model_with_adapter.unload()
        raise
    return model_with_adapter.eval()


def merged(base: torch.nn.Module, folder: Path) -> Any:
    """Return a model with the adapter of a folder added to its weights; PEFT loads it, and leaves nothing of itself."""
    wrapped: Any = peft.PeftModel.from_pretrained(base, str(folder))
    return wrapped.merge_and_unload()


def lora_config(
    model: torch.nn.Module, allocation: RankAllocation, alphas: Mapping[str, float], dropout: float
) -> peft.LoraConfig:
    """Build PEFT's configuration."""
    ranks = allocation.adapted
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        fan_in_fan_out=all(FrozenLinear(model.get_submodule(name)).transposed for name in ranks),
        lora_dropout=dropout,
        revision=getattr(model, "hub_commit", None),
        **naming.exact(ranks, alphas, [name for name, _ in model.named_modules()]),
    )


def audit(
    applied: Mapping[str, tuple[int, float]], trainable: int, allocation: RankAllocation, alphas: Mapping[str, float]
) -> None:
    """Compare the adapter with the plan.

    Args:
        applied: Adapted site -> (rank, scale), read from the tensors and the scales in use.
        trainable: Parameters that will be trained, counted.
        allocation: Planned rank per site.
        alphas: Planned alpha per adapted site.

    Raises:
        AllocationMismatch: Names the first site that differs, and how.
    """
    planned = allocation.adapted
    for name in planned.keys() | applied.keys():
        rank, scale = applied.get(name, (0, 0.0))
        if rank != planned.get(name, 0):
            raise AllocationMismatch(f"{name}: planned rank {planned.get(name, 0)}, applied rank {rank}")
        if not math.isclose(scale, alphas[name] / rank, rel_tol=1e-9):
            raise AllocationMismatch(f"{name}: planned scale {alphas[name] / rank}, applied scale {scale}")
    if trainable != allocation.params:
        raise AllocationMismatch(f"planned {allocation.params} trainable parameters, applied {trainable}")


def read_back(model: Any) -> dict[str, tuple[int, float]]:
    """Return site name -> (rank of the actual A and B, scale in use) for every adapter in ``model``."""
    applied = {}
    for name, layer in _lora_layers(model):
        rows, columns = layer.lora_A[ADAPTER].weight.shape[0], layer.lora_B[ADAPTER].weight.shape[1]
        if rows != columns:
            raise AllocationMismatch(f"{name}: A has rank {rows}, B has rank {columns}")
        applied[name] = (int(rows), float(layer.scaling[ADAPTER]))
    return applied


def read(model: Any) -> Adapter:
    """Return the adapter in ``model``, with the tensors that the model uses."""
    factors = {
        name: (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight) for name, layer in _lora_layers(model)
    }
    scales = {name: scale for name, (_, scale) in read_back(model).items()}
    return Adapter(model.peft_config[ADAPTER], factors, scales)


def blank(model: Any, sites: Sequence[Site], ranks: Mapping[str, int]) -> Adapter:
    """Return an adapter of zeros at some sites, at scale 1, apart from any model."""
    allocation = RankAllocation(ranks, sum(site.cost * ranks[site.name] for site in sites))
    device = next(model.parameters()).device
    factors = {
        site.name: (
            torch.zeros(ranks[site.name], site.d_in, device=device),
            torch.zeros(site.d_out, ranks[site.name], device=device),
        )
        for site in sites
    }
    config = lora_config(model, allocation, {name: float(rank) for name, rank in ranks.items()}, 0.0)
    return Adapter(config, factors, dict.fromkeys(factors, 1.0))


def loaded(model: Any, folder: Path) -> Any:
    """Return ``model`` with the adapter of a folder, to be trained, as anybody would load it.

    Call it within ``restored``: if PEFT raises, it has changed a part of the model.
    """
    return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)


@contextmanager
def restored(model: Any) -> Iterator[None]:
    """Put every module of a model back into its place at the end, whatever PEFT has put there."""
    places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    try:
        yield
    finally:
        for parent, name, child in places:
            if getattr(parent, name) is not child:
                setattr(parent, name, child)
        if hasattr(model, "peft_config"):
            del model.peft_config


def detach(model: Any) -> None:
    """Remove the adapter; the base is as it was before ``attach``."""
    model.unload()


def set_dropout(model: Any, training: bool) -> None:
    """Turn the adapter's own dropout on or off; the frozen base's stays off."""
    for _, layer in _lora_layers(model):
        layer.lora_dropout.train(training)


def _lora_layers(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A:
            yield name, layer
