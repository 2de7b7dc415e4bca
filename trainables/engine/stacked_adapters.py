"""The adapters of several trials as one: factors side by side, zero-padded, and one product per layer for all."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trainables.adapters.adapter import Adapter
from trainables.models.frozen_linear import FrozenLinear

Mask = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Factors:
    """A layer's factors for K trials; R is the largest rank among them.

    Args:
        down: (K, R, d_in), every trial's A on top of zeros.
        up: (K, R, d_out), every trial's B, transposed, on top of zeros.
        scale: (K, 1, 1).
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: torch.Tensor


class Stack:
    """Holds the factors of several adapters.

    The adapters' own tensors become views of the stack, and so do their gradients: nothing is copied between passes, an
    optimizer of one trial changes the stack, and a pad, which is in no adapter, is never changed.

    Args:
        adapters: One per trial, in the order of their rows. Gradients that they have accumulated are kept.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        names = dict.fromkeys(name for adapter in adapters for name in adapter.factors)
        # evaluation stacks too, and inference tensors could not be trained later
        with torch.inference_mode(False), torch.no_grad():
            self.factors = {name: self._stacked(name, adapters) for name in names}

    def _stacked(self, name: str, adapters: Sequence[Adapter]) -> Factors:
        pairs = [adapter.factors.get(name) for adapter in adapters]
        a, b = next(pair for pair in pairs if pair is not None)
        rank = max(pair[0].shape[0] for pair in pairs if pair is not None)
        down, up = a.new_zeros(len(pairs), rank, a.shape[1]), b.new_zeros(len(pairs), rank, b.shape[0])
        down.grad, up.grad = torch.zeros_like(down), torch.zeros_like(up)
        for k, pair in enumerate(pairs):
            if pair is not None:
                _move(pair[0], down[k, : len(pair[0])], down.grad[k, : len(pair[0])])
                _move(pair[1], up[k, : len(pair[0])].t(), up.grad[k, : len(pair[0])].t())
        scales = [[[adapter.scales.get(name, 0.0)]] for adapter in adapters]
        return Factors(down.requires_grad_(), up.requires_grad_(), down.new_tensor(scales))


@contextmanager
def adapted(model: Any, stack: Stack, mask: Mask | None = None) -> Iterator[None]:
    """Have a model's layers compute the adapters of several trials, too; the model's tensors are never changed.

    Args:
        model: The frozen base. A trial's rows lie together, and all trials have as many.
        stack: The trials' adapters, in the order of their rows.
        mask: Returns dropout's factors for a site's input (trials, tokens, d_in); None if nothing is dropped.
    """
    layers = []
    try:
        for name, factors in stack.factors.items():
            layers.append(model.get_submodule(name))
            part = None if mask is None else functools.partial(mask, name)
            layers[-1].forward = functools.partial(_forward, FrozenLinear(layers[-1]), factors, part)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(
    layer: FrozenLinear, factors: Factors, mask: Callable[[torch.Tensor], torch.Tensor] | None, x: torch.Tensor
) -> torch.Tensor:
    """Compute a layer together with the trials' adapters at it; x is the model's, trial after trial."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    packed = x.reshape(len(factors.scale), -1, x.shape[-1]).to(dtype)
    parts = [part.to(dtype) for part in (factors.down, factors.up, factors.scale)]
    dropped = None if mask is None else mask(packed)
    y: torch.Tensor = AdaptedLinear.apply(  # type: ignore[no-untyped-call]
        packed, layer, *parts, dropped, x.shape[:-1]
    )
    return y


def _move(tensor: torch.Tensor, place: torch.Tensor, gradient: torch.Tensor) -> None:
    """Make a trial's tensor and its gradient views of the stack."""
    place.copy_(tensor)
    if tensor.grad is not None:
        gradient.copy_(tensor.grad)
    tensor.data = place
    tensor.grad = gradient


class AdaptedLinear(torch.autograd.Function):
    """``x @ weight + bias`` with K trials' ``scale * dropped(x) @ down.T @ up`` added in place.

    The result is no view, since some models (Falcon) add to it in place, as they may to a linear layer's.

    The weight is frozen: it has no gradient, and what is made of it for the dtype of ``x``, which all else has, is made
    again in the backward pass rather than kept until then.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        layer: FrozenLinear,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: torch.Tensor,
        mask: torch.Tensor | None,
        shape: Sequence[int],
    ) -> torch.Tensor:
        """Return (*shape, d_out).

        Args:
            ctx: Stores what the gradients need.
            x: (K, tokens, d_in).
            layer: The layer that is adapted.
            down: (K, R, d_in).
            up: (K, R, d_out).
            scale: (K, 1, 1).
            mask: Dropout's factor for each element of ``x``, or None.
            shape: Of the model's own rows: K * lanes, length.
        """
        flat, y = x.view(-1, x.shape[-1]), x.new_empty(*shape, layer.out_features)
        layer.matmul(flat, out=y.view(len(flat), -1))
        z = torch.bmm(x if mask is None else x * mask, down.transpose(1, 2)).mul_(scale)
        ctx.layer = layer
        ctx.save_for_backward(x, z, down, up, scale, mask)
        y.view(*x.shape[:2], -1).baddbmm_(z, up)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of ``x`` (if anything below is trained), ``down`` and ``up``."""
        x, z, down, up, scale, mask = ctx.saved_tensors
        g = g.reshape(*x.shape[:2], -1)
        dz = torch.bmm(g, up.transpose(1, 2)).mul_(scale)
        dropped = x if mask is None else x * mask
        d_down, d_up = torch.bmm(dz.transpose(1, 2), dropped), torch.bmm(z.transpose(1, 2), g)
        if not ctx.needs_input_grad[0]:
            return None, None, d_down, d_up, None, None, None
        dx = ctx.layer.matmul_t(g.view(-1, g.shape[-1])).view_as(x)
        dx = dx.baddbmm_(dz, down) if mask is None else dx.addcmul_(torch.bmm(dz, down), mask)
        return dx, None, d_down, d_up, None, None, None
