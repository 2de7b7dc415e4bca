"""A frozen linear layer: the only place that knows how its weight is laid out, and in which dtype."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class FrozenLinear:
    """A layer that computes ``x @ weight + bias``.

    Args:
        layer: A ``torch.nn.Linear``, which stores its weight as (d_out, d_in), a ``Conv1D``, as (d_in, d_out), or a
            ``Linear4bit`` of bitsandbytes, which is the first with its weight in blocks of four-bit numbers.
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
    def quantized(self) -> bool:
        """Whether the weight is stored in four bits."""
        return getattr(self.layer.weight, "quant_state", None) is not None

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's (d_out, d_in), or as it is stored if that is the other way round."""
        weight = self.layer.weight
        first, second = (weight.quant_state if self.quantized else weight).shape
        return int(first), int(second)

    @property
    def in_features(self) -> int:
        """Input features."""
        return self.shape[0 if self.transposed else 1]

    @property
    def out_features(self) -> int:
        """Output features."""
        return self.shape[1 if self.transposed else 0]

    def compute_in(self, dtype: torch.dtype) -> None:
        """Have a layer in four bits compute in a dtype when it is called itself, and keep its weight as it is laid out.

        On some CPUs bitsandbytes would lay it out otherwise after the first call, for a product of its own.
        """
        if hasattr(self.layer, "compute_type_is_set"):
            self.layer.compute_dtype, self.layer.compute_type_is_set = dtype, True
            self.layer.support_avx512bf16_for_cpu = False

    def matmul(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write ``x @ weight + bias`` into ``out``.

        Args:
            x: (tokens, d_in).
            out: (tokens, d_out), of the same dtype.
        """
        if self.layer.bias is None:
            torch.mm(x, self.dequantize(x.dtype), out=out)
        else:
            torch.addmm(self.layer.bias.to(x.dtype), x, self.dequantize(x.dtype), out=out)

    def matmul_t(self, g: torch.Tensor) -> torch.Tensor:
        """Return ``g @ weight.T``, (tokens, d_in), of ``g`` (tokens, d_out)."""
        return g @ self.dequantize(g.dtype).t()

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight in ``dtype``, (d_in, d_out); it is a view of the layer's own where that is stored so."""
        weight = self.stored()
        return (weight if self.transposed else weight.t()).to(dtype)

    def weight_gradient(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Return the loss gradient with respect to the weight, in float32 and laid out as ``stored``.

        Args:
            x: What the layer was given, (..., d_in).
            g: The gradient of what it returned, (..., d_out).
        """
        x, g = x.reshape(-1, x.shape[-1]).float(), g.reshape(-1, g.shape[-1]).float()
        return x.t() @ g if self.transposed else g.t() @ x

    def stored(self) -> torch.Tensor:
        """Return the weight as the layer stores it, (d_out, d_in) or the other way round, out of any four bits."""
        weight: Any = self.layer.weight
        if not self.quantized:
            return weight  # type: ignore[no-any-return]
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[no-any-return]
