"""The only file that imports PEFT: attach an allocation, read it back, take it off."""

import math
import re
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from strategies import RankAllocation

ADAPTER = "default"


class AllocationMismatch(RuntimeError):
    """What was built is not what was planned. The trial must not train."""


def attach(
    model: torch.nn.Module, allocation: RankAllocation, alphas: Mapping[str, float], dropout: float = 0.0
) -> Any:
    """Wrap ``model`` with LoRA of exactly the planned ranks and scales, and audit the result.

    Args:
        model: The frozen base; its targeted layers are replaced in place until ``detach``.
        allocation: Rank per site; sites of rank 0 are left as they are.
        alphas: LoRA's alpha per adapted site; the scale is alpha / rank.
        dropout: Dropout before A.

    Returns:
        The ``PeftModel``, in evaluation mode.

    Raises:
        AllocationMismatch: A rank, a scale, a shape or the number of trainable parameters differs from the plan.
    """
    model_with_adapter = peft.get_peft_model(model, lora_config(model, allocation, alphas, dropout))
    try:
        audit(model_with_adapter, allocation, alphas)
    except AllocationMismatch:
        model_with_adapter.unload()
        raise
    return model_with_adapter.eval()


def lora_config(
    model: torch.nn.Module, allocation: RankAllocation, alphas: Mapping[str, float], dropout: float
) -> peft.LoraConfig:
    """Build PEFT's configuration.

    ``rank_pattern`` keys are regexes that match at name endings, so every key is escaped and anchored; the targets are
    one regex because a list would match by ending, too.
    """
    ranks = allocation.adapted
    modules = dict(model.named_modules())
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="|".join(map(re.escape, ranks)),
        rank_pattern={_anchored(name): rank for name, rank in ranks.items()},
        alpha_pattern={_anchored(name): alphas[name] for name in ranks},
        fan_in_fan_out=all(isinstance(modules[name], Conv1D) for name in ranks),
        lora_dropout=dropout,
    )


def audit(model: Any, allocation: RankAllocation, alphas: Mapping[str, float]) -> None:
    """Compare every adapter in ``model`` with the plan.

    Raises:
        AllocationMismatch: Names the first site that differs, and how.
    """
    planned = allocation.adapted
    found = read_back(model)
    for name in planned.keys() | found.keys():
        rank, scale = found.get(name, (0, 0.0))
        if rank != planned.get(name, 0):
            raise AllocationMismatch(f"{name}: planned rank {planned.get(name, 0)}, applied rank {rank}")
        if not math.isclose(scale, alphas[name] / rank, rel_tol=1e-9):
            raise AllocationMismatch(f"{name}: planned scale {alphas[name] / rank}, applied scale {scale}")
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trainable != allocation.params:
        raise AllocationMismatch(f"planned {allocation.params} trainable parameters, applied {trainable}")


def read_back(model: Any) -> dict[str, tuple[int, float]]:
    """Return site name -> (rank of the actual A and B, scale in use) for every adapter in ``model``."""
    found = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A:
            rows, columns = layer.lora_A[ADAPTER].weight.shape[0], layer.lora_B[ADAPTER].weight.shape[1]
            if rows != columns:
                raise AllocationMismatch(f"{name}: A has rank {rows}, B has rank {columns}")
            found[name] = (int(rows), float(layer.scaling[ADAPTER]))
    return found


def fan_in_fan_out(model: Any) -> bool:
    """Return whether the adapted layers keep their weight as (d_in, d_out), as GPT-2's Conv1D does."""
    return bool(model.peft_config[ADAPTER].fan_in_fan_out)


def detach(model: Any) -> None:
    """Take the adapter off and leave the base as it was before ``attach``."""
    model.unload()


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under PEFT's names, not copied."""
    return dict(peft.get_peft_model_state_dict(model))


def set_weights(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors from ``weights`` back.

    Raises:
        AllocationMismatch: Names do not fit this model's adapter.
    """
    if difference := weights(model).keys() ^ tensors.keys():
        raise AllocationMismatch(f"the checkpoint's adapter differs at {sorted(difference)[0]}")
    peft.set_peft_model_state_dict(model, dict(tensors))


def save(model: Any, folder: str) -> None:
    """Write an adapter folder that ``PeftModel.from_pretrained`` loads."""
    model.save_pretrained(folder, safe_serialization=True)


def _anchored(name: str) -> str:
    return "^" + re.escape(name)
