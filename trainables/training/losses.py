"""Plain functions of fine-tuning: loss, evaluation, schedule, order of the data."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from trainables.data.collate import collate
from trainables.data.splits import IGNORED, Example
from trainables.models.base_model import BaseModel
from trainables.training.frozen_head import frozen_head_losses


def token_losses(
    model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, separable_head: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next-token cross-entropy of each learned token, in nats, and its position in the labels.

    Args:
        model: The Hugging Face model.
        inputs: The model's inputs, each (rows, length).
        labels: (rows, length), ``IGNORED`` where nothing is learned.
        separable_head: Whether the logits are the output embedding of the last hidden state and nothing else; then
            they are computed only where a token is learned.

    Returns:
        (learned tokens,), and (learned tokens, 2): row, and position of the token before it.
    """
    learned = labels[:, 1:] != IGNORED
    positions = learned.nonzero()
    places = positions[:, 0] * labels.shape[1] + positions[:, 1]
    return losses_at(model, inputs, places, labels[:, 1:][learned], separable_head), positions


def losses_at(
    model: Any, inputs: Mapping[str, torch.Tensor], places: torch.Tensor, targets: torch.Tensor, separable_head: bool
) -> torch.Tensor:
    """Return the cross-entropy of some predictions, in nats, (predictions,); nothing is read back from the device.

    Args:
        model: The Hugging Face model.
        inputs: The model's inputs, each (rows, length).
        places: (predictions,), the token from which each is made, counted over all rows.
        targets: (predictions,), the ids.
        separable_head: As of ``token_losses``.
    """
    if separable_head:
        hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1).index_select(0, places)
        return frozen_head_losses(model.get_output_embeddings(), hidden, targets)
    logits = model(**inputs).logits.flatten(0, 1).index_select(0, places)
    return functional.cross_entropy(logits.float(), targets, reduction="none")


@torch.inference_mode()
def evaluate(base: BaseModel, examples: Sequence[Example], batch_size: int) -> list[float]:
    """Return the summed loss of each example, in nats."""
    loss_by_index: dict[int, float] = {}
    order = by_length(examples)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = collate([examples[index] for index in indices], base.pad_id, base.device)
        with base.autocast():
            losses, positions = token_losses(base.model, batch.inputs, batch.labels, base.separable_head)
        loss_by_index |= zip(
            indices, losses.new_zeros(len(indices)).index_add(0, positions[:, 0], losses).tolist(), strict=True
        )
    return [loss_by_index[index] for index in range(len(examples))]


def by_length(examples: Sequence[Example]) -> list[int]:
    """Return the examples' indices, the shortest first: batches in this order have little padding."""
    return sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then linear decay that would reach 0 one step after the last."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising + 1))


def batch_order(examples: int, batch_size: int, steps: int, seed: int) -> list[tuple[int, ...]]:
    """Return the example indices of every step: each epoch is a new permutation, and batches run on across epochs."""
    generator = random.Random(seed)
    stream: list[int] = []
    while len(stream) < steps * batch_size:
        stream.extend(generator.sample(range(examples), examples))
    return [tuple(stream[step * batch_size : (step + 1) * batch_size]) for step in range(steps)]
