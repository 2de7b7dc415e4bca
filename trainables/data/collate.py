"""Examples as tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from trainables.data.splits import IGNORED, Example


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of shape (batch, length), padded on the right."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """The model's inputs."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    @property
    def learned_tokens(self) -> int:
        """Targets that count in the loss: the first token of a row has no prediction."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    def parts(self, rows: int) -> "list[Batch]":
        """Return the same in parts of so many rows, each padded to its own longest."""
        if len(self.input_ids) <= rows:
            return [self]
        parts = []
        for start in range(0, len(self.input_ids), rows):
            length = int(self.attention_mask[start : start + rows].any(0).sum())
            tensors = (self.input_ids, self.attention_mask, self.labels)
            parts.append(Batch(*(tensor[start : start + rows, :length] for tensor in tensors)))
        return parts


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches of some examples in order, made as they are asked for.

    Args:
        examples: The examples.
        size: Of a batch.
        rows: Most rows of one pass whose gradients are wanted.
        pad_id: The padding id.
        device: Name of the device.
    """

    examples: Sequence[Example]
    size: int
    rows: int
    pad_id: int
    device: str

    def __iter__(self) -> Iterator[Batch]:
        """Make them."""
        for start in range(0, len(self.examples), self.size):
            yield collate(self.examples[start : start + self.size], self.pad_id, self.device)


def collate(examples: Sequence[Example], pad_id: int, device: str = "cpu") -> Batch:
    """Pad examples on the right to the longest; padding is neither attended to nor learned."""
    length = max(len(example.input_ids) for example in examples)

    def padded(rows: Iterator[tuple[int, ...]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], device=device)

    return Batch(
        input_ids=padded((e.input_ids for e in examples), pad_id),
        attention_mask=padded(((1,) * len(e.input_ids) for e in examples), 0),
        labels=padded((e.labels for e in examples), IGNORED),
    )
