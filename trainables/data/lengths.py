"""What is said of the data before the first trial, and noted for the report: counts, lengths, an example."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.data.dealing import MIN_TOKENS
from trainables.data.preparation import Prepared, percentile
from trainables.data.splits import IGNORED, SPLITS, Example

PERCENTILES = (50, 90, 99, 100)
FEWEST_TEST_DOCUMENTS = 20
"""Fewer say too little about other texts for a verdict."""
LEARNED = "⟦", "⟧"


def data_facts(prepared: Prepared) -> dict[str, Any]:
    """Return what a report shows of the data, by name.

    Returns:
        ``rows`` of the data set's files; ``own``, split -> distinct rows of its own files; ``used``, split -> examples;
        ``documents``, split -> texts or prompts that they are of; ``windows``, whether a row may give several examples;
        ``by_hand``, rows that were put into a template before, and of how many; ``left_out``, reason -> rows;
        ``tokens``, percentile -> tokens of a row; ``max_length`` in tokens. Shares of
        rows, from 0 to 1: ``cut`` at that length, ``ends_lost`` by that, ``filled`` by their prompt and so not used,
        ``glued``, which have no space between prompt and completion. ``words``, lines that say all that.
    """
    used = [group for split in SPLITS for group in prepared.groups[split]]
    rows = [row for group in used for row in zip(group.tokens, group.windows, strict=True)]
    most = prepared.source.max_length
    filled = f"nothing to learn within {most} tokens"
    looked_at = len(prepared.lengths)
    facts = {
        "rows": prepared.corpus.rows,
        "own": {split: len(documents) for split, documents in prepared.corpus.others.items()},
        "used": {split: len(getattr(prepared.splits, split)) for split in SPLITS},
        "windows": any(windows for _, windows in rows),
        "documents": {split: len(prepared.groups[split]) for split in SPLITS},
        "by_hand": [sum(tokens.by_hand for tokens, _ in rows), len(rows)],
        "left_out": {**prepared.corpus.left_out, **({filled: prepared.unused} if prepared.unused else {})},
        "tokens": {str(percent): percentile(prepared.lengths, percent) for percent in PERCENTILES},
        "max_length": most,
        "cut": _share(sum(len(tokens.input_ids) > most for tokens, _ in rows), len(rows)),
        "ends_lost": _share(
            sum(_loses_end(len(tokens.input_ids), windows, most) for tokens, windows in rows), len(rows)
        ),
        "filled": _share(prepared.unused, looked_at),
        "glued": 0.0 if prepared.has_template else _glued(prepared),
    }
    return {**facts, "words": in_words(facts)}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _loses_end(length: int, windows: bool, most: int) -> bool:
    """A text's last window is not used if it is too short."""
    return 0 < length % most < min(MIN_TOKENS, most) and length > most if windows else length > most


def _glued(prepared: Prepared) -> float:
    pairs = [document for document in prepared.corpus.documents if document.form == "pair"]
    glued = sum(bool(pair.prompt) and not pair.prompt[-1].isspace() and not pair.text[0].isspace() for pair in pairs)
    return _share(glued, len(pairs))


def in_words(facts: Mapping[str, Any]) -> list[str]:
    """Return lines that say what was used of the data, and what became of the rest."""
    validation, test = (_held_out(facts, split) for split in ("validation", "test"))
    lines = [
        f"{_rows(facts)} used to train, {validation} to validate, {test} to test",
        *([f"left out: {left_out_in_words(facts['left_out'])}"] if facts["left_out"] else []),
        _lengths(facts),
    ]
    by_hand, rows = facts["by_hand"]
    if 0 < by_hand < rows:
        lines.append(
            f"{by_hand:,} of {rows:,} rows have the template's special tokens in their prompt and are taken as they "
            f"are; the others are put into the template"
        )
    if facts["glued"] > 0.5:
        lines.append(
            f"{facts['glued']:.0%} of the prompts meet their completion without a space, and there is no template: put "
            f"a space or a line feed at the end of the prompt"
        )
    return lines


def _rows(facts: Mapping[str, Any]) -> str:
    train, documents = facts["used"]["train"], facts["documents"]["train"]
    if train == documents or not facts["windows"]:
        return f"{train:,} of {facts['rows']:,} rows"
    return f"{train:,} examples from {documents:,} of {facts['rows']:,} rows"


def _held_out(facts: Mapping[str, Any], split: str) -> str:
    used, documents = facts["used"][split], facts["documents"][split]
    if split not in facts["own"]:
        return f"{used:,}"
    several = facts["windows"] and used != documents
    rows = f"{used:,} examples from {documents:,}" if several else f"{used:,}"
    return f"{rows} of {facts['own'][split]:,} different rows of --{split}-dataset"


def left_out_in_words(left_out: Mapping[str, int]) -> str:
    """Return reasons and numbers as a list."""
    return ", ".join(f"{count:,} ({reason})" for reason, count in sorted(left_out.items(), key=lambda pair: -pair[1]))


def _lengths(facts: Mapping[str, Any]) -> str:
    tokens = facts["tokens"]
    line = (
        f"tokens of a row: {tokens['50']:,} at the median, {tokens['90']:,} at 90 %, {tokens['99']:,} at 99 %, "
        f"{tokens['100']:,} at most; at --max-length {facts['max_length']} "
    )
    if not facts["cut"] and not facts["filled"]:
        return f"{line}none is cut"
    return (
        f"{line}{facts['cut']:.1%} of the rows are cut, {facts['ends_lost']:.1%} lose their end token, and of "
        f"{facts['filled']:.1%} nothing is left to learn"
    )


def enough_to_test(prepared: Prepared) -> bool:
    """Return False if the test split is of too few documents for a verdict, also if no more were asked for."""
    return len({example.document for example in prepared.splits.test}) >= FEWEST_TEST_DOCUMENTS


def marked(example: Example, tokenizer: Any) -> str:
    """Return an example's text with brackets around what is learned."""
    parts = []
    for begin, end in _runs(example.labels):
        text = tokenizer.decode(example.input_ids[begin:end])
        parts.append(f"{LEARNED[0]}{text}{LEARNED[1]}" if example.labels[begin] != IGNORED else text)
    return "".join(parts)


def _runs(labels: Sequence[int]) -> list[tuple[int, int]]:
    edges = [index for index in range(1, len(labels)) if (labels[index] == IGNORED) != (labels[index - 1] == IGNORED)]
    return list(zip([0, *edges], [*edges, len(labels)], strict=True))
