"""From a source to its splits: documents are read, tokenised, cut, dealt and drawn."""

import functools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainables.data.corpus import Corpus, read_corpus
from trainables.data.formats import Document
from trainables.data.source import DataSource
from trainables.data.splits import IGNORED, SPLITS, Example, Splits
from trainables.data.templates import Encoder, NoTemplate, Tokens

MIN_TOKENS = 16
POOL = 8
WINDOWED = ("bundled", "text")
LOOKED_AT = 1000  # documents whose lengths say how long examples are
WORD = 8  # characters of a token, at most, as a rule
TEXT_CHARACTERS = 1_000_000  # a tokenizer takes a second for as many, and 200 MB


@dataclass(slots=True)
class Group:
    """The documents of one prompt, of which no two are in different splits.

    Args:
        number: Its number, which its examples have.
        tokens: Each document's tokens, not cut.
        examples: What they are cut into.
        windows: Whether a text is cut into several examples; else what is too long is cut off.
    """

    number: int
    tokens: list[Tokens]
    windows: list[bool]
    examples: list[Example] = field(default_factory=list)
    unused: int = 0

    def cut(self, max_length: int) -> None:
        """Make the examples, and count the documents that give none."""
        for tokens, windows in zip(self.tokens, self.windows, strict=True):
            examples = list(examples_of(tokens, windows, max_length, self.number))
            self.examples += examples
            self.unused += not examples


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
    groups = preparation.groups(None, {name: _wanted(source)[name] for name in preparation.dealt})
    return tuple(example for group in groups for example in group.examples)


class _Preparation:
    def __init__(self, source: DataSource, tokenizer: Any, longest: int):
        self.source, self.corpus = source, read_corpus(source)
        self.encoder = Encoder(source, tokenizer)
        self.dealt = tuple(split for split in SPLITS if split not in source.others)  # dealt out of the data set
        self.grouped: dict[str | None, list[list[Document]]] = {None: _shuffled(self.corpus.documents, source)}
        self.grouped.update({name: _shuffled(documents, source) for name, documents in self.corpus.others.items()})
        self.max_length = self._fitting(longest) if source.fits_length else source.max_length
        self.looked_at: list[Group] = []

    def prepared(self) -> Prepared:
        """Tokenise, deal and draw."""
        source = replace(self.source, max_length=self.max_length, fits_length=False)
        pools: dict[str, list[Group]] = {}
        for split in self.source.others:
            pools[split] = self.groups(split, {split: _wanted(source)[split]})
        groups = self.groups(None, {name: _wanted(source)[name] for name in self.dealt})
        wanted, dealt = self._dealt(groups)
        pools.update(dealt)
        for split in self.source.others:
            wanted[split] = min(_wanted(source)[split], _count(pools[split]))
        if not all(wanted.values()):
            reason = _too_little(groups, len(self.dealt), _unit(source, groups))
            raise ValueError(f"--dataset {source.dataset}: {reason}")
        rng = random.Random(source.split_seed)
        drawn = {
            name: _spread([e for group in pools[name] for e in group.examples], wanted[name], rng) for name in SPLITS
        }
        counts: Any = {f"{name}_examples": count for name, count in wanted.items()}
        resolved = replace(source, train_share=None, keeps_quarters=False, **counts)
        unused = sum(group.unused for group in self.looked_at)
        lengths = sorted(len(tokens.input_ids) for group in self.looked_at for tokens in group.tokens)
        return Prepared(resolved, self.corpus, Splits(**drawn), _used(pools, drawn), lengths, unused,
                        self.encoder.template is not None)  # fmt: skip

    def groups(self, split: str | None, wanted: Mapping[str, int]) -> list[Group]:
        """Tokenise documents in random order until there are enough examples, and return those that have some."""
        groups = []
        stop = _Enough(wanted, self.max_length, self.source.train_share is not None and split is None)
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
        wanted = _resolved(self.source, self.dealt, _count(groups))
        while all(wanted.values()):
            enough = _Enough(wanted, self.max_length)
            needed = groups[: next((n for n, group in enumerate(groups, 1) if enough.after(group)), len(groups))]
            dealt = _deal(needed, wanted)
            had = {name: min(count, _count(dealt[name])) for name, count in wanted.items()}
            if had == wanted:
                return wanted, dealt
            wanted = had
        return wanted, {name: [] for name in wanted}


class _Enough:
    """Whether enough documents have been tokenised: the answer is the same for the numbers that come of a share.

    Of texts there are to be ``POOL`` times the wanted examples, and ``POOL`` documents for each split, so that no split
    has only a few long ones. A row that is one example is as good as any other.
    """

    def __init__(self, wanted: Mapping[str, int], max_length: int, needs_all: bool = False):
        self.needs_all, self.wanted = needs_all, wanted
        self.groups = self.examples = 0
        self.dealt = dict.fromkeys(wanted, 0)
        total = sum(wanted.values())
        self.characters = None if self.needs_all else max(TEXT_CHARACTERS, 4 * POOL * total * max_length)

    def after(self, group: Group) -> bool:
        """Take note of another document; return True if no more are needed."""
        self.groups += 1
        self.examples += len(group.examples)
        poorest = min(self.dealt, key=lambda name: self.dealt[name] / self.wanted[name])
        self.dealt[poorest] += len(group.examples)
        if self.needs_all:
            return False
        if any(group.windows):
            return self.examples >= POOL * sum(self.wanted.values()) and self.groups >= POOL * len(SPLITS)
        return all(self.dealt[name] >= count for name, count in self.wanted.items())


def _wanted(source: DataSource) -> dict[str, int]:
    return dict(zip(SPLITS, (source.train_examples, source.validation_examples, source.test_examples), strict=True))


def _resolved(source: DataSource, splits: Sequence[str], examples: int) -> dict[str, int]:
    """Return how many of the examples each split gets."""
    wanted = {name: _wanted(source)[name] for name in splits}
    if source.train_share is None and sum(wanted.values()) <= examples:
        return wanted
    if source.train_share is None and not source.keeps_quarters:
        total = sum(wanted.values())
        return {name: count * examples // total for name, count in wanted.items()}
    share = 1.0 if source.train_share is None else source.train_share
    left = examples - round(share * examples) if share < 1 else examples * (len(splits) - 1) // 4
    rest = {name: min(wanted[name], left // (len(splits) - 1)) for name in splits if name != "train"}
    train = examples - sum(rest.values())
    most = source.train_examples if source.train_share is None else round(share * examples)
    return {"train": min(train, most), **rest}


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.examples) for group in groups)


def _used(pools: Mapping[str, Sequence[Group]], drawn: Mapping[str, Sequence[Example]]) -> dict[str, list[Group]]:
    used = {name: {example.document for example in examples} for name, examples in drawn.items()}
    return {name: [group for group in groups if group.number in used[name]] for name, groups in pools.items()}


def percentile(values: Sequence[int], percent: float) -> int:
    """Return the smallest of rising values that at least ``percent`` of them do not exceed; 0 of none."""
    return values[max(0, math.ceil(percent / 100 * len(values)) - 1)] if values else 0


def _spread(pool: Sequence[Example], count: int, rng: random.Random) -> tuple[Example, ...]:
    """Draw examples so that every document has as many as any other, as far as it has them."""
    turns: Counter[int] = Counter()
    drawn = []
    for example in rng.sample(pool, len(pool)):
        drawn.append((turns[example.document], example))
        turns[example.document] += 1
    return tuple(example for _, example in sorted(drawn, key=lambda pair: pair[0])[:count])


def _unit(source: DataSource, groups: Sequence[Group]) -> str:
    return "texts" if all(all(group.windows) for group in groups) else "different prompts"


def _too_little(groups: Sequence[Group], splits: int, unit: str) -> str:
    if len(groups) < splits:
        return f"too little text, {len(groups)} {unit}, and none is in two splits; give {splits} or more"
    return (
        f"too little text, {_count(groups)} examples from {len(groups)} {unit} for {splits} splits; give more, or "
        f"change --max-length"
    )


def _shuffled(documents: Sequence[Document], source: DataSource) -> list[list[Document]]:
    """Return documents in random order, those of one prompt together, so that no prompt is in two splits."""
    shuffled = list(documents)
    random.Random(source.split_seed).shuffle(shuffled)
    groups: dict[str, list[Document]] = {}
    for index, document in enumerate(shuffled):
        groups.setdefault(document.prompt or f"\0{index}", []).append(document)
    return list(groups.values())


def _shortened(document: Document, most: int | None) -> Document:
    """Leave out of a text what is beyond the number of characters that could be used."""
    if most is None or document.form not in {*WINDOWED, "pair"}:
        return document
    return replace(document, prompt=document.prompt[:most], text=document.text[:most])


def _deal(groups: Sequence[Group], wanted: Mapping[str, int]) -> dict[str, list[Group]]:
    """Give each document, whole, to the split that is furthest from its share."""
    pools: dict[str, list[Group]] = {name: [] for name in wanted}
    counts = dict.fromkeys(wanted, 0)
    for group in groups:
        poorest = min(pools, key=lambda name: counts[name] / wanted[name])
        pools[poorest].append(group)
        counts[poorest] += len(group.examples)
    return pools


def examples_of(tokens: Tokens, windows: bool, max_length: int, number: int) -> Iterator[Example]:
    """Cut a text into windows, and of anything else cut off what is too long."""
    ids, labels = tuple(tokens.input_ids), tuple(tokens.labels)
    if windows:
        for start in range(0, len(ids), max_length):
            window = ids[start : start + max_length]
            if len(window) >= min(MIN_TOKENS, max_length) or (start == 0 and len(window) > 1):
                yield Example(window, window, number)
    elif any(label != IGNORED for label in labels[1:max_length]):
        yield Example(ids[:max_length], labels[:max_length], number)
