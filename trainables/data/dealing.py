"""Which documents each split gets, and which of their examples are used; no document is in two splits."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trainables.data.formats import Document
from trainables.data.source import DataSource
from trainables.data.splits import IGNORED, SPLITS, Example
from trainables.data.templates import Tokens

MIN_TOKENS = 16
POOL = 8
WINDOWED = ("bundled", "text")
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


class Enough:
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


def asked_examples(source: DataSource) -> dict[str, int]:
    """Return split -> how many examples it was asked to have."""
    return dict(zip(SPLITS, (source.train_examples, source.validation_examples, source.test_examples), strict=True))


def examples_per_split(source: DataSource, splits: Sequence[str], examples: int) -> dict[str, int]:
    """Return how many of the examples each split gets."""
    wanted = {name: asked_examples(source)[name] for name in splits}
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


def count_of(groups: Sequence[Group]) -> int:
    """Return how many examples groups have."""
    return sum(len(group.examples) for group in groups)


def groups_used(pools: Mapping[str, Sequence[Group]], drawn: Mapping[str, Sequence[Example]]) -> dict[str, list[Group]]:
    """Return split -> its groups of which an example was drawn."""
    used = {name: {example.document for example in examples} for name, examples in drawn.items()}
    return {name: [group for group in groups if group.number in used[name]] for name, groups in pools.items()}


def spread(pool: Sequence[Example], count: int, rng: random.Random) -> tuple[Example, ...]:
    """Draw examples so that every document has as many as any other, as far as it has them."""
    turns: Counter[int] = Counter()
    drawn = []
    for example in rng.sample(pool, len(pool)):
        drawn.append((turns[example.document], example))
        turns[example.document] += 1
    return tuple(example for _, example in sorted(drawn, key=lambda pair: pair[0])[:count])


def shuffled(documents: Sequence[Document], source: DataSource) -> list[list[Document]]:
    """Return documents in random order, those of one prompt together, so that no prompt is in two splits."""
    in_any_order = list(documents)
    random.Random(source.split_seed).shuffle(in_any_order)
    groups: dict[str, list[Document]] = {}
    for index, document in enumerate(in_any_order):
        groups.setdefault(document.asked or f"\0{index}", []).append(document)
    return list(groups.values())


def deal(groups: Sequence[Group], wanted: Mapping[str, int]) -> dict[str, list[Group]]:
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
