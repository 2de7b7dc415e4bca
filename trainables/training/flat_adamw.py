"""AdamW of many trials at once, on flat tensors: some twenty operations, whatever their number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

BETAS = 0.9, 0.999
EPSILON = 1e-8
MOMENTS = "exp_avg", "exp_avg_sq"
"""Their names in the state of ``torch.optim.AdamW``."""


@dataclass(frozen=True, slots=True)
class Step:
    """A trial's next optimizer step.

    Args:
        number: Counted from 1.
        learning_rate: Of this step.
        weight_decay: AdamW's.
        clip_norm: Largest gradient norm; larger ones are scaled down.
    """

    number: int
    learning_rate: float
    weight_decay: float
    clip_norm: float

    @property
    def row(self) -> tuple[float, ...]:
        """What ``update`` needs of it."""
        first, second = (1 - beta**self.number for beta in BETAS)
        shrinking = 1 - self.learning_rate * self.weight_decay
        return 1.0, self.learning_rate / first, math.sqrt(second), shrinking, self.clip_norm


WAITING = 0.0, 0.0, 1.0, 1.0, 1.0
"""As ``Step.row``, of a trial whose batch is not full: it keeps everything, its gradients included."""


def rows_of(steps: Sequence[Step | None], losses: Sequence[float]) -> torch.Tensor:
    """Return what ``update`` needs of each trial, (trials, 6), on the CPU.

    Args:
        steps: None does none.
        losses: Of what the trials' batches had before this pass.
    """
    rows = [WAITING if step is None else step.row for step in steps]
    return torch.tensor([[*row, loss] for row, loss in zip(rows, losses, strict=True)])


@torch.no_grad()
def update(
    planes: torch.Tensor,
    scales: torch.Tensor,
    rows: torch.Tensor,
    losses: torch.Tensor,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do each trial's step, and zero its gradients; one whose loss or gradient is not finite keeps all that it has.

    Memory is taken before anything is changed, so that a step for which it does not suffice may be done again.

    Args:
        planes: (4, trials, width): values, gradients, and both moments.
        scales: (trials, width), what the gradients are yet to be multiplied by.
        rows: From ``rows_of``.
        losses: Of this pass, (trials,).
        factors: (trials, width), what each learning rate is multiplied by; None if by 1 everywhere.

    Returns:
        The norms of the gradients before they were scaled down, (trials,).

    Source:
        Loshchilov and Hutter, Decoupled weight decay regularization (arXiv 1711.05101), algorithm 2, in the order of
        operations of ``torch.optim.AdamW``.
    """
    values, gradients, first, second = planes
    is_due, rate, correction, shrinking, clip, earlier = rows.unsqueeze(2).unbind(1)
    scaled = gradients * scales
    norms: torch.Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    steps = (is_due > 0) & torch.isfinite(norms + losses[:, None] + earlier)
    rate, shrinking = torch.where(steps, rate, 0.0), torch.where(steps, shrinking, 1.0)
    if factors is not None:
        rate, shrinking = rate * factors, 1 - (1 - shrinking) * factors
    fading, fresh = torch.where(steps, BETAS[1], 1.0), steps * (1 - BETAS[0])
    scaled = torch.where(steps, scaled.mul_((clip / (norms + 1e-6)).clamp(max=1.0)), 0.0)
    denominator = torch.empty_like(scaled)
    first.lerp_(scaled, fresh)
    second.mul_(fading).addcmul_(scaled, scaled, value=1 - BETAS[1])
    torch.sqrt(second, out=denominator).div_(correction).add_(EPSILON)
    values.mul_(shrinking).addcdiv_(torch.mul(first, rate, out=scaled), denominator, value=-1)
    gradients.masked_fill_(steps, 0.0)
    return norms[:, 0]
