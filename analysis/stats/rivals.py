"""Rivals of a win: the controls of a strategy, and the strongest simple ways to do without it."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from analysis.results.rows import ResultRow
from analysis.stats.verdicts import PLAIN, RIVALS, SEARCHED_PLAIN, Tried, Verdict, label, paired, reference_of

PLAIN_KINDS = (PLAIN, SEARCHED_PLAIN)


def with_rivals(judged: Sequence[Verdict], confirmed: Mapping[str, Sequence[ResultRow]]) -> list[Verdict]:
    """Return verdicts, each win with how it stands against rivals and controls; plain LoRA itself has none.

    What a win is over, the reference, is none of its rivals: another interval could say otherwise than the verdict.
    All these intervals hold together: a win of a search shares its level among all wins and all that they are tried
    against.

    Args:
        judged: The verdicts.
        confirmed: Label -> its confirmation runs.
    """
    wins = [verdict.strategy for verdict in judged if verdict.answer == "win"]
    reference = reference_of(confirmed)
    rivals = {
        name: _rivals_of(name, confirmed, reference) for name in wins if confirmed[name][0].strategy not in PLAIN_KINDS
    }
    comparisons = sum(map(len, rivals.values())) or 1
    tried = {
        name: _tried(confirmed[name], runs, comparisons, {reference, confirmed[name][0].strategy})
        for name, runs in rivals.items()
    }
    return [replace(item, tried=tried.get(item.strategy, item.tried)) for item in judged]


def in_question(judged: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts that a search is to come to: whether its two kinds of plain LoRA differ is no question of it.

    Where nothing else was confirmed, that is the question.

    Args:
        judged: All verdicts.
    """
    return [verdict for verdict in judged if verdict.strategy not in PLAIN_KINDS] or list(judged)


def _rivals_of(
    name: str, confirmed: Mapping[str, Sequence[ResultRow]], reference: str
) -> dict[str, Sequence[ResultRow]]:
    """Return rivals of a strategy and controls of it -> their runs, as far as they were trained."""
    strategy, size = confirmed[name][0].strategy, label(confirmed[name][0], "")
    rivals = {rival: confirmed[rival] for rival in RIVALS if rival in confirmed and rival not in {strategy, reference}}
    controls = {
        runs[0].strategy: runs
        for runs in confirmed.values()
        if runs[0].control_of == strategy and label(runs[0], "") == size
    }
    return {**controls, **rivals}


def _tried(
    runs: Sequence[ResultRow], rivals: Mapping[str, Sequence[ResultRow]], comparisons: int, no_rivals: Container[str]
) -> Tried:
    intervals = {rival: paired(runs, others, comparisons).interval for rival, others in rivals.items()}
    stands = {rival: interval for rival, interval in intervals.items() if interval is not None}
    return Tried(
        beaten=tuple(rival for rival, (_, high) in stands.items() if high < 0),
        unbeaten=tuple(rival for rival, (_, high) in stands.items() if high >= 0),
        missing=tuple(rival for rival in RIVALS if rival not in stands and rival not in no_rivals),
    )
