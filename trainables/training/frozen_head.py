"""Cross-entropy through a frozen output embedding, without ever holding all logits."""

from typing import Any

import torch

from trainables.models.device import device_of

LEAST_ROWS = 64
"""Of a chunk: each reads the whole of the weight."""


class FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy of ``hidden @ weight.T + bias``, and its gradient with respect to ``hidden`` alone.

    The head is frozen, so that is the only gradient: ``(softmax - onehot) @ weight``. It is computed in the forward
    pass, chunk by chunk, where the exponentials are available; the backward pass only scales it.

    Source:
        The idea of a fused linear cross-entropy: Hsu et al., Liger Kernel (arXiv 2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of each token, in nats.

        Args:
            ctx: Stores the gradient.
            hidden: (tokens, width).
            weight: (vocabulary, width).
            bias: (vocabulary,) or None.
            targets: (tokens,), the target ids.
        """
        losses = torch.empty(len(hidden), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(LEAST_ROWS, device_of(hidden.device.type).head_elements // len(weight))
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            logits -= logits.amax(1, keepdim=True)
            target_logits = logits.gather(1, targets[part, None])
            total = logits.exp_().sum(1, keepdim=True)
            losses[part] = (total.log() - target_logits).squeeze(1)
            if gradient is not None:
                logits /= total
                logits.scatter_add_(1, targets[part, None], -torch.ones_like(total))
                gradient[part] = logits.to(weight.dtype) @ weight
        ctx.gradient = gradient
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Scale each token's gradient by the upstream gradient."""
        return ctx.gradient * upstream[:, None].to(ctx.gradient.dtype), None, None, None


def frozen_head_losses(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the loss of each token, (tokens,), through a frozen linear ``head``."""
    losses: torch.Tensor = FrozenHeadLoss.apply(hidden, head.weight, head.bias, targets)  # type: ignore[no-untyped-call]
    return losses
