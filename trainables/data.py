"""Text in, tokenised train, validation and test splits out."""

import functools
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

IGNORED = -100
LOADERS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
MIN_TOKENS = 16
POOL = 8


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where examples come from, and how many.

    Args:
        dataset: ``pydoc`` (Python's language reference), a .txt, .jsonl, .csv or .parquet file, or a hub id. In a .txt
            file each non-empty line is a text.
        text_column: The column to learn, for tables without prompts.
        prompt_column: Column that is read but not learned; needs ``completion_column``.
        completion_column: Column that is learned.
        train_examples: Examples of the training split; likewise the other two.
        max_length: Tokens per example. Longer texts are cut into several examples, longer completions are cut off.
        split_seed: Decides which text is in which split.
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


@dataclass(frozen=True, slots=True)
class Document:
    """A text that may not be split between training and test; ``prompt`` is empty for plain text."""

    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence. Both fields have the same length; ``labels`` is ``IGNORED`` where nothing is learned."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

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


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of shape (batch, length), padded on the right."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    @property
    def learned_tokens(self) -> int:
        """Targets that count in the loss: the first token of a row has no prediction."""
        return int((self.labels[:, 1:] != IGNORED).sum())


def read_documents(source: DataSource) -> list[Document]:
    """Read all distinct documents.

    Raises:
        ValueError: The file is missing, empty, not UTF-8, of an unknown kind, or lacks a column.
    """
    if source.dataset == "pydoc":
        from pydoc_data.topics import topics

        documents = [Document("", text) for _, text in sorted(topics.items())]
    elif source.dataset.endswith(".txt"):
        documents = [Document("", line.strip()) for line in _read_text(source.dataset).splitlines() if line.strip()]
    else:
        documents = _read_table(source)
    documents = [document for document in dict.fromkeys(documents) if document.text.strip()]
    if not documents:
        raise ValueError(f"--dataset {source.dataset}: no text in it")
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

    Whole documents are dealt to the splits; each split's examples are then drawn from all of its documents, since the
    windows of a few long texts would stand for themselves alone. ``split_seed`` decides both.

    Raises:
        ValueError: There is too little text for the three splits.
    """
    from trainables.base_model import load_tokenizer

    tokenizer = load_tokenizer(model)
    wanted = {
        "train": source.train_examples,
        "validation": source.validation_examples,
        "test": source.test_examples,
    }
    pools = _deal(_pool(source, tokenizer, sum(wanted.values())), wanted)
    for name, count in wanted.items():
        if len(pools[name]) < count:
            found = sum(map(len, pools.values()))
            raise ValueError(
                f"--dataset {source.dataset}: too little text, {found} examples for {sum(wanted.values())} wanted; "
                f"lower --train-examples, --validation-examples or --test-examples, or --max-length"
            )
    chosen = random.Random(source.split_seed)
    return Splits(**{name: tuple(chosen.sample(pools[name], count)) for name, count in wanted.items()})


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


def _grouped(documents: Sequence[Document]) -> list[list[Document]]:
    """Put documents of one prompt together, so that no prompt is in two splits."""
    groups: dict[str, list[Document]] = {}
    for index, document in enumerate(documents):
        groups.setdefault(document.prompt or f"\0{index}", []).append(document)
    return list(groups.values())


def _pool(source: DataSource, tokenizer: Any, wanted: int) -> list[list[Example]]:
    """Tokenise documents in random order, a list per document, until there are ``POOL`` times the wanted examples."""
    documents = read_documents(source)
    random.Random(source.split_seed).shuffle(documents)
    pool, found = [], 0
    for group in _grouped(documents):
        pool.append([example for document in group for example in _tokenise(document, tokenizer, source.max_length)])
        found += len(pool[-1])
        if found >= POOL * wanted:
            break
    return pool


def _deal(groups: Sequence[list[Example]], wanted: Mapping[str, int]) -> dict[str, list[Example]]:
    """Give each document, whole, to the split that is furthest from its share."""
    pools: dict[str, list[Example]] = {name: [] for name in wanted}
    for group in groups:
        poorest = min(pools, key=lambda name: len(pools[name]) / wanted[name])
        pools[poorest].extend(group)
    return pools


def _tokenise(document: Document, tokenizer: Any, max_length: int) -> Iterator[Example]:
    """Cut plain text into windows; close a completion with the end-of-text token and mask its prompt."""
    text = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
    if not document.prompt:
        for start in range(0, len(text), max_length):
            window = tuple(text[start : start + max_length])
            if len(window) >= MIN_TOKENS or (start == 0 and len(window) > 1):
                yield Example(window, window)
        return
    prompt = tokenizer(document.prompt, verbose=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = (prompt + text + end)[:max_length]
    labels = ([IGNORED] * len(prompt) + text + end)[:max_length]
    if any(label != IGNORED for label in labels[1:]):
        yield Example(tuple(ids), tuple(labels))


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--dataset {path}: not UTF-8 at byte {error.start}; convert it first") from error
    except OSError as error:
        raise ValueError(f"--dataset {path}: {error.strerror or error}; give a file that can be read") from error


def _read_table(source: DataSource) -> list[Document]:
    """Read a table through the ``datasets`` library; only its needed columns must be there."""
    table = _load_table(source.dataset)
    prompt, text = source.prompt_column, source.completion_column or source.text_column
    for flag, column in (("--prompt-column", prompt), ("--completion-column or --text-column", text)):
        if column is not None and column not in table.column_names:
            names = ", ".join(table.column_names)
            raise ValueError(f"--dataset {source.dataset}: no column {column!r} ({flag}); it has {names}")
    prompts = table[prompt] if prompt else [""] * len(table)
    return [Document(str(p or ""), str(t)) for p, t in zip(prompts, table[text], strict=True) if t is not None]


def _load_table(dataset: str) -> Any:
    import datasets

    suffix = Path(dataset).suffix.lower()
    if suffix in LOADERS:
        if not Path(dataset).is_file():
            raise ValueError(f"--dataset {dataset}: no such file")
        if suffix != ".parquet":
            _read_text(dataset)  # names a file that is not UTF-8 better than the parser does
    elif Path(dataset).exists():
        raise ValueError(f"--dataset {dataset}: unknown kind of file; give .txt, {', '.join(LOADERS)} or a hub id")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what matters is raised here, in one line
    split: Literal["train"] = "train"
    try:
        if suffix in LOADERS:
            return datasets.load_dataset(LOADERS[suffix], data_files=dataset, split=split)
        return datasets.load_dataset(dataset, split=split)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"--dataset {dataset}: cannot be read ({str(cause).splitlines()[0][:200]})") from error
