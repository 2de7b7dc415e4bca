"""Plain functions of fine-tuning: loss, evaluation, schedule, order of the data."""

import contextlib
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from trainables.data import IGNORED, Batch, Example, collate


class Diverged(RuntimeError):
    """A loss or gradient is not finite. The message names step, learning rate and dtype."""


def autocast(device: str) -> Any:
    """bfloat16 autocast on a GPU, float32 on CPU, never float16."""
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext()


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Return the summed next-token cross-entropy over the learned tokens of ``batch``, in nats."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


@torch.inference_mode()
def evaluate(model: Any, examples: Sequence[Example], batch_size: int, pad_id: int, device: str = "cpu") -> float:
    """Return the mean loss per learned token over all examples: a mean over tokens, not over batches."""
    total, tokens = 0.0, 0
    ordered = sorted(examples, key=lambda example: len(example.input_ids))  # less padding, the same sum
    model.eval()
    for start in range(0, len(ordered), batch_size):
        batch = collate(ordered[start : start + batch_size], pad_id, device)
        with autocast(device):
            total += loss_sum(model, batch).item()
        tokens += batch.learned_tokens
    return total / tokens


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
