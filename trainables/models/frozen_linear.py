"""A frozen linear layer: the only place that knows how its weight is laid out."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class FrozenLinear:
    """A layer that computes ``x @ weight + bias``.

    Args:
        layer: A ``torch.nn.Linear``, which stores its weight as (d_out, d_in), or a ``Conv1D``, as (d_in, d_out).
    """

    layer: Any

    @staticmethod
    def is_one(module: Any) -> bool:
        """Return True if a module is a linear layer, whatever its class adds to one."""
        return isinstance(module, torch.nn.Linear | Conv1D)

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as (d_in, d_out); PEFT calls that ``fan_in_fan_out``."""
        return isinstance(self.layer, Conv1D)

    @property
    def in_features(self) -> int:
        """Input features."""
        return int(self.layer.weight.shape[0 if self.transposed else 1])

    @property
    def out_features(self) -> int:
        """Output features."""
        return int(self.layer.weight.shape[1 if self.transposed else 0])

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight in ``dtype``, (d_in, d_out)."""
        weight: torch.Tensor = self.layer.weight if self.transposed else self.layer.weight.t()
        return weight.to(dtype)

    def bias(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return the bias in ``dtype``, (d_out,); None if there is none."""
        return None if self.layer.bias is None else self.layer.bias.to(dtype)
