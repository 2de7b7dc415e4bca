"""The adapters of several trials as one: factors side by side, and one product per layer for all."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from trainables.engine.adapter_store import Factors
from trainables.models.frozen_linear import FrozenLinear

Mask = Callable[[str, torch.Tensor], torch.Tensor]


@contextmanager
def adapted(model: Any, factors: Mapping[str, Factors], mask: Mask | None = None) -> Iterator[None]:
    """Have a model's layers compute the adapters of several trials, too; the model's tensors are never changed.

    Args:
        model: The frozen base. A trial's rows lie together, and all trials have as many.
        factors: Of each adapted site, the trials in the order of their rows.
        mask: Returns dropout's factors for a site's input (trials, tokens, d_in); None if nothing is dropped.
    """
    layers = []
    try:
        for name, trials in factors.items():
            layers.append(model.get_submodule(name))
            part = None if mask is None else functools.partial(mask, name)
            layers[-1].forward = functools.partial(_forward, FrozenLinear(layers[-1]), trials, part)
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
    packed = x.reshape(len(factors.down), -1, x.shape[-1]).to(dtype)
    parts = [part.to(dtype) for part in (factors.down, factors.up)]
    dropped = None if mask is None else mask(packed)
    y: torch.Tensor = AdaptedLinear.apply(  # type: ignore[no-untyped-call]
        packed, layer, *parts, factors.gradients, dropped, x.shape[:-1]
    )
    return y


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add the products of two batches of matrices to what may be of a wider dtype."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total.add_(torch.bmm(a, b))


class AdaptedLinear(torch.autograd.Function):
    """``x @ weight + bias`` with K trials' ``dropped(x) @ down.T @ up`` added in place.

    The result is no view, since some models (Falcon) add to it in place, as they may to a linear layer's.

    The gradients of ``down`` and ``up`` are added to where they are wanted, and not returned. The weight is frozen: it
    has no gradient, and what is made of it for the dtype of ``x``, which all else has, is made again in the backward
    pass rather than kept until then.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        layer: FrozenLinear,
        down: torch.Tensor,
        up: torch.Tensor,
        gradients: tuple[torch.Tensor, torch.Tensor] | None,
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
            gradients: As ``Factors.gradients``.
            mask: Dropout's factor for each element of ``x``, or None.
            shape: Of the model's own rows: K * lanes, length.
        """
        flat, y = x.reshape(-1, x.shape[-1]), x.new_empty(*shape, layer.out_features)
        layer.matmul(flat, out=y.view(len(flat), -1))
        z = torch.bmm(x if mask is None else x * mask, down.transpose(1, 2))
        ctx.layer, ctx.gradients = layer, gradients
        ctx.save_for_backward(x, z, down, up, mask)
        y.view(*x.shape[:2], -1).baddbmm_(z, up)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of ``x``, if anything below is trained."""
        x, z, down, up, mask = ctx.saved_tensors
        g = g.reshape(*x.shape[:2], -1)
        dz = torch.bmm(g, up.transpose(1, 2))
        dropped = x if mask is None else x * mask
        if ctx.gradients is not None:
            _add_product(ctx.gradients[0], dz.transpose(1, 2), dropped)
            _add_product(ctx.gradients[1], z.transpose(1, 2), g)
        if not ctx.needs_input_grad[0]:
            return (None,) * 7
        dx = ctx.layer.matmul_t(g.reshape(-1, g.shape[-1])).view_as(x)
        dx = dx.baddbmm_(dz, down) if mask is None else dx.addcmul_(torch.bmm(dz, down), mask)
        return dx, *(None,) * 6
