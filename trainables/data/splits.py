"""Text in, tokenised train, validation and test splits out."""

import functools
import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.data import readers

IGNORED = -100
SPLITS = ("train", "validation", "test")
MIN_TOKENS = 16
POOL = 8
TEXT_CHARACTERS = 1_000_000  # a tokenizer takes a second for as many, and 200 MB


@dataclass(frozen=True, slots=True)
class DataSource:
    """The source of the examples, and their number.

    Args:
        dataset: ``pydoc`` (Python's language reference), a .txt, .jsonl, .csv or .parquet file, or a hub id. In a .txt
            file each non-empty line is a text; of a table, a row with a null in a wanted column is omitted.
        text_column: The column to learn, for tables without prompts.
        prompt_column: Column that is read but not learned; needs ``completion_column``.
        completion_column: Column that is learned.
        train_examples: Examples of the training split; likewise the other two.
        max_length: Tokens per example. Longer texts are cut into several examples, longer completions are cut off. Of a
            text of millions of characters, only as much as all splits together could use is read.
        split_seed: Seed of the split.
    """

    dataset: str = "pydoc"
    text_column: str = "text"
    prompt_column: str | None = None
    completion_column: str | None = None
    train_examples: int = 200
    validation_examples: int = 100
    test_examples: int = 100
    max_length: int = 128
    split_seed: int = 0

    def __post_init__(self) -> None:
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("--prompt-column and --completion-column go together; give both or neither")
        for flag, column in (("--text-column", self.text_column), ("--prompt-column", self.prompt_column)):
            if not self.has_columns and column not in {"text", None}:
                raise ValueError(f"{flag} {column}: --dataset {self.dataset} has no columns; leave it out")

    @property
    def has_columns(self) -> bool:
        """Whether the data set is a table."""
        return self.dataset != "pydoc" and readers.suffix(self.dataset) != ".txt"


@dataclass(frozen=True, slots=True)
class Document:
    """A text that may not be split between training and test; ``prompt`` is empty for plain text."""

    prompt: str
    text: str


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


def read_documents(source: DataSource) -> list[Document]:
    """Read all distinct documents.

    Raises:
        ValueError: The file is missing, empty, not UTF-8, of an unknown kind, or lacks a column.
    """
    if source.dataset == "pydoc":
        from pydoc_data.topics import topics

        documents = [Document("", text) for _, text in sorted(topics.items())]
    elif not source.has_columns:
        documents = [Document("", line.strip()) for line in readers.read_text(source.dataset).splitlines()]
    elif source.prompt_column and source.completion_column:
        columns = {"--prompt-column": source.prompt_column, "--completion-column": source.completion_column}
        documents = [Document(prompt, text) for prompt, text in readers.read_columns(source.dataset, columns)]
    else:
        columns = {"--text-column": source.text_column}
        documents = [Document("", text) for (text,) in readers.read_columns(source.dataset, columns)]
    documents = [document for document in dict.fromkeys(documents) if document.text.strip()]
    if not documents:
        raise ValueError(f"--dataset {source.dataset}: no text in it; give one with some")
    return documents


def corpus_sha256(documents: Sequence[Document]) -> str:
    """Return a digest of all texts, in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.prompt}\0{document.text}\0".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def load_splits(source: DataSource, model: str) -> Splits:
    """Tokenise ``source`` for ``model``; a second call in the same process returns the same object.

    Whole documents are dealt to the splits; each split's examples are then drawn from all of its documents alike, since
    the windows of a few long texts would not represent the rest. ``split_seed`` decides both.

    Raises:
        ValueError: There is too little text for the three splits.
    """
    from trainables.models.base_model import load_tokenizer

    tokenizer = load_tokenizer(model)
    counts = (source.train_examples, source.validation_examples, source.test_examples)
    wanted = dict(zip(SPLITS, counts, strict=True))
    pool = _pool(source, tokenizer, sum(wanted.values()))
    pools = _deal(pool, wanted)
    if any(len(pools[name]) < count for name, count in wanted.items()):
        raise ValueError(f"--dataset {source.dataset}: {_too_little(source, pool, sum(wanted.values()))}")
    rng = random.Random(source.split_seed)
    return Splits(**{name: _spread(pools[name], count, rng) for name, count in wanted.items()})


def _spread(pool: Sequence[Example], count: int, rng: random.Random) -> tuple[Example, ...]:
    """Draw examples so that every document has as many as any other, as far as it has them."""
    turns: Counter[int] = Counter()
    drawn = []
    for example in rng.sample(pool, len(pool)):
        drawn.append((turns[example.document], example))
        turns[example.document] += 1
    return tuple(example for _, example in sorted(drawn, key=lambda pair: pair[0])[:count])


def _too_little(source: DataSource, pool: Sequence[list[Example]], wanted: int) -> str:
    kind = "different prompts" if source.prompt_column else "texts"
    if len(pool) < len(SPLITS):
        return f"too little text, {len(pool)} {kind}, and none is in two splits; give {len(SPLITS)} or more"
    return (
        f"too little text, {sum(map(len, pool))} examples from {len(pool)} {kind} for {wanted} wanted; give more, or "
        f"lower --train-examples, --validation-examples or --test-examples, or --max-length"
    )


def _grouped(documents: Sequence[Document]) -> list[list[Document]]:
    """Put documents of one prompt together, so that no prompt is in two splits."""
    groups: dict[str, list[Document]] = {}
    for index, document in enumerate(documents):
        groups.setdefault(document.prompt or f"\0{index}", []).append(document)
    return list(groups.values())


def _pool(source: DataSource, tokenizer: Any, wanted: int) -> list[list[Example]]:
    """Tokenise documents in random order, a list per document, until there are ``POOL`` times the wanted examples.

    And until there are ``POOL`` documents for each split, so that no split has only a few long ones.
    """
    documents = read_documents(source)
    characters = max(TEXT_CHARACTERS, 4 * POOL * wanted * source.max_length)
    random.Random(source.split_seed).shuffle(documents)
    pool, example_count = [], 0
    for number, group in enumerate(_grouped(documents)):
        parts = (Document(document.prompt[:characters], document.text[:characters]) for document in group)
        pool.append([example for part in parts for example in _tokenise(part, tokenizer, source.max_length, number)])
        example_count += len(pool[-1])
        if example_count >= POOL * wanted and len(pool) >= POOL * len(SPLITS):
            break
    return pool


def _deal(groups: Sequence[list[Example]], wanted: Mapping[str, int]) -> dict[str, list[Example]]:
    """Give each document, whole, to the split that is furthest from its share."""
    pools: dict[str, list[Example]] = {name: [] for name in wanted}
    for group in groups:
        poorest = min(pools, key=lambda name: len(pools[name]) / wanted[name])
        pools[poorest].extend(group)
    return pools


def _tokenise(document: Document, tokenizer: Any, max_length: int, number: int) -> Iterator[Example]:
    """Cut plain text into windows; close a completion with the end-of-text token and mask its prompt."""
    text = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
    if not document.prompt:
        for start in range(0, len(text), max_length):
            window = tuple(text[start : start + max_length])
            if len(window) >= min(MIN_TOKENS, max_length) or (start == 0 and len(window) > 1):
                yield Example(window, window, number)
        return
    prompt = tokenizer(document.prompt, verbose=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = (prompt + text + end)[:max_length]
    labels = ([IGNORED] * len(prompt) + text + end)[:max_length]
    if any(label != IGNORED for label in labels[1:]):
        yield Example(tuple(ids), tuple(labels), number)
