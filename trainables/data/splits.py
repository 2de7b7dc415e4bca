"""Tokenised train, validation and test splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.corpus import corpus_sha256 as corpus_sha256
from trainables.data.corpus import read_documents as read_documents
from trainables.data.source import DataSource as DataSource
from trainables.data.templates import IGNORED as IGNORED

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence.

    Args:
        input_ids: Its tokens.
        labels: As many; ``IGNORED`` where nothing is learned.
        document: Number of the document that it is from, or of the prompt; examples of one are alike.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    document: int = 0

    @property
    def learned_tokens(self) -> int:
        """Targets that count in the loss: the first token has no prediction."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class Splits:
    """Tokenised examples; no text is in two splits."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def train_sha256(self) -> str:
        """A digest of the training examples, in order."""
        return hashlib.sha256(repr([(e.input_ids, e.labels) for e in self.train]).encode()).hexdigest()


def mean_loss(examples: Sequence[Example], losses: Sequence[float]) -> float:
    """Return the mean loss per learned token of all, from each example's summed loss."""
    return sum(losses) / sum(example.learned_tokens for example in examples)


def by_document(examples: Sequence[Example], losses: Sequence[float]) -> dict[int, tuple[float, int]]:
    """Return document -> (its examples' summed loss, their learned tokens), in the order of the documents."""
    totals = {example.document: (0.0, 0) for example in sorted(examples, key=lambda example: example.document)}
    for example, loss in zip(examples, losses, strict=True):
        total, tokens = totals[example.document]
        totals[example.document] = (total + loss, tokens + example.learned_tokens)
    return totals


def load_splits(source: DataSource, model: str) -> Splits:
    """Return the examples of ``prepare``."""
    from trainables.data.preparation import prepare  # which knows what examples are

    return prepare(source, model).splits
