"""From a source to its splits: documents are read, tokenised, cut, dealt and drawn."""

import functools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainables.data.corpus import Corpus, read_corpus, sha256_of
from trainables.data.dealing import (
    WINDOWED,
    Enough,
    Group,
    asked_examples,
    count_of,
    deal,
    examples_per_split,
    groups_used,
    shuffled,
    spread,
)
from trainables.data.formats import Document
from trainables.data.source import DataSource
from trainables.data.splits import SPLITS, Example, Splits
from trainables.data.templates import Encoder, NoTemplate, Tokens

LOOKED_AT = 1000  # documents whose lengths say how long examples are
WORD = 8  # characters of a token, at most, as a rule


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples, and how they came to be.

    Args:
        source: What was asked for, with the numbers and the length that were used.
        corpus: What was read.
        splits: The examples.
        groups: Split -> the documents that its examples are of, in the order of their numbers.
        lengths: Tokens of each document that was looked at, in rising order.
        unused: Documents that were looked at and have no token to learn in ``max_length``.
        has_template: Whether conversations and pairs were put into a chat template.
    """

    source: DataSource
    corpus: Corpus
    splits: Splits
    groups: Mapping[str, Sequence[Group]]
    lengths: Sequence[int]
    unused: int
    has_template: bool

    @property
    def corpus_sha256(self) -> str:
        """A digest of all texts, and of the template that was given for them."""
        return sha256_of(self.source, self.corpus)


@functools.lru_cache(maxsize=1)
def prepare(source: DataSource, model: str, longest: int | None = None) -> Prepared:
    """Tokenise ``source`` for ``model``; a second call in the same process returns the same object.

    Whole documents are dealt to the splits; each split's examples are then drawn from all of its documents alike, since
    the windows of a few long texts would not represent the rest. ``split_seed`` decides both. Where there is less than
    was asked for, the splits shrink in proportion.

    Args:
        source: What was asked for.
        model: Whose tokenizer it is.
        longest: The most tokens that an example may have; None takes ``source.max_length``.

    Raises:
        ValueError: There is too little text for three splits, or it cannot be read or tokenised.
    """
    from trainables.models.base_model import load_tokenizer

    return _Preparation(source, load_tokenizer(model), longest or source.max_length).prepared()


def all_examples(source: DataSource, model: str) -> tuple[Example, ...]:
    """Return the examples of all of a data set's documents, numbered as those of ``prepare`` are.

    Args:
        source: Whose ``max_length`` is how long they are, as ``Prepared.source`` has it.
        model: Whose tokenizer it is.
    """
    from trainables.models.base_model import load_tokenizer

    everything = replace(source, train_share=1.0, fits_length=False)
    preparation = _Preparation(everything, load_tokenizer(model), source.max_length)
    groups = preparation.groups(None, {name: asked_examples(source)[name] for name in preparation.dealt})
    return tuple(example for group in groups for example in group.examples)


class _Preparation:
    def __init__(self, source: DataSource, tokenizer: Any, longest: int):
        self.source, self.corpus = source, read_corpus(source)
        self.encoder = Encoder(source, tokenizer)
        self.dealt = tuple(split for split in SPLITS if split not in source.others)  # dealt out of the data set
        self.grouped: dict[str | None, list[list[Document]]] = {None: shuffled(self.corpus.documents, source)}
        self.grouped.update({name: shuffled(documents, source) for name, documents in self.corpus.others.items()})
        self.max_length = self._fitting(longest) if source.fits_length else source.max_length
        self.looked_at: list[Group] = []

    def prepared(self) -> Prepared:
        """Tokenise, deal and draw."""
        source = replace(self.source, max_length=self.max_length, fits_length=False)
        pools: dict[str, list[Group]] = {}
        for split in self.source.others:
            pools[split] = self.groups(split, {split: asked_examples(source)[split]})
        groups = self.groups(None, {name: asked_examples(source)[name] for name in self.dealt})
        wanted, dealt = self._dealt(groups)
        pools.update(dealt)
        for split in self.source.others:
            wanted[split] = min(asked_examples(source)[split], count_of(pools[split]))
        if not all(wanted.values()):
            reason = _too_little(groups, len(self.dealt), _unit(source, groups))
            raise ValueError(f"--dataset {source.dataset}: {reason}")
        rng = random.Random(source.split_seed)
        drawn = {
            name: spread([e for group in pools[name] for e in group.examples], wanted[name], rng) for name in SPLITS
        }
        counts: Any = {f"{name}_examples": count for name, count in wanted.items()}
        resolved = replace(source, train_share=None, keeps_quarters=False, **counts)
        if source.train_share is None and wanted != asked_examples(source):
            # how much of a long text is tokenised follows from the counts: those that are saved give these splits again
            self.source, self.looked_at = resolved, []
            return self.prepared()
        unused = sum(group.unused for group in self.looked_at)
        lengths = sorted(len(tokens.input_ids) for group in self.looked_at for tokens in group.tokens)
        return Prepared(resolved, self.corpus, Splits(**drawn), groups_used(pools, drawn), lengths, unused,
                        self.encoder.template is not None)  # fmt: skip

    def groups(self, split: str | None, wanted: Mapping[str, int]) -> list[Group]:
        """Tokenise documents in random order until there are enough examples, and return those that have some."""
        groups = []
        stop = Enough(wanted, self.max_length, self.source.train_share is not None and split is None)
        for number, documents in enumerate(self.grouped[split]):
            group = self._group(number if split is None else -1 - number, documents, stop.characters, split)
            group.cut(self.max_length)
            self.looked_at.append(group)
            groups.append(group)
            if stop.after(group):
                break
        return groups

    def _group(self, number: int, documents: Sequence[Document], most: int | None, split: str | None) -> Group:
        tokens = [self._tokens(document, most, split) for document in documents]
        return Group(number, tokens, [document.form in WINDOWED for document in documents])

    def _tokens(self, document: Document, most: int | None, split: str | None) -> Tokens:
        """Tokenise a document; what is wrong with it names its file and row, what is wrong with all of them the data.

        Raises:
            ValueError: The template cannot be applied, or there is none.
        """
        flag, dataset = (
            (f"--{split}-dataset", self.source.others[split]) if split else ("--dataset", self.source.dataset)
        )
        try:
            return self.encoder.tokens(_shortened(document, most))
        except NoTemplate as error:
            raise ValueError(f"{flag} {dataset}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{document.place or f'{flag} {dataset}'}: {error}") from error

    def _fitting(self, longest: int) -> int:
        """Return the 99th percentile of the documents' lengths, of those that are looked at first."""
        first = self.grouped[None][:LOOKED_AT]
        groups = [self._group(0, documents, 4 * longest * WORD, None) for documents in first]
        lengths = sorted(len(tokens.input_ids) for group in groups for tokens in group.tokens)
        return max(2, min(longest, percentile(lengths, 99)))

    def _dealt(self, groups: list[Group]) -> tuple[dict[str, int], dict[str, list[Group]]]:
        """Return how many examples each split gets, and its documents.

        Whole documents do not always come out even: what a split falls short of, all give up.
        """
        wanted = examples_per_split(self.source, self.dealt, count_of(groups))
        while all(wanted.values()):
            enough = Enough(wanted, self.max_length)
            needed = groups[: next((n for n, group in enumerate(groups, 1) if enough.after(group)), len(groups))]
            dealt = deal(needed, wanted)
            had = {name: min(count, count_of(dealt[name])) for name, count in wanted.items()}
            if had == wanted:
                return wanted, dealt
            wanted = had
        return wanted, {name: [] for name in wanted}


def percentile(values: Sequence[int], percent: float) -> int:
    """Return the smallest of rising values that at least ``percent`` of them do not exceed; 0 of none."""
    return values[max(0, math.ceil(percent / 100 * len(values)) - 1)] if values else 0


def _unit(source: DataSource, groups: Sequence[Group]) -> str:
    return "texts" if all(all(group.windows) for group in groups) else "different prompts"


def _too_little(groups: Sequence[Group], splits: int, unit: str) -> str:
    if len(groups) < splits and unit == "texts":
        return f"too little text, {_number_of(len(groups), 'text')}, and none is in two splits; give {splits} or more"
    if len(groups) < splits:
        rows = sum(len(group.tokens) for group in groups)
        return (
            f"{_number_of(rows, 'row')} with {_number_of(len(groups), 'different prompt')}, and no prompt is in two "
            f"splits; give {splits} or more, or --validation-dataset and --test-dataset"
        )
    return (
        f"too little text, {count_of(groups)} examples from {len(groups)} {unit} for {splits} splits; give more, or "
        f"change --max-length"
    )


def _number_of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shortened(document: Document, most: int | None) -> Document:
    """Leave out of a text what is beyond the number of characters that could be used."""
    if most is None or document.form not in {*WINDOWED, "pair"}:
        return document
    return replace(document, prompt=document.prompt[:most], text=document.text[:most])
