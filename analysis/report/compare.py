"""Several searches in one report: does an allocation that wins here win there?"""

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from analysis.results.header import ReportHeader
from analysis.results.rows import ResultRow
from analysis.stats import verdicts
from analysis.stats.statistics import span

HEADERS = ("search", "model", "data", "parameters", "strategy", "verdict", "difference", "interval", "seeds")


@dataclass(frozen=True, slots=True)
class Search:
    """One search to compare.

    Args:
        name: Of its run folder.
        header: What its rows do not know.
        rows: All its trials.
    """

    name: str
    header: ReportHeader
    rows: Sequence[ResultRow]


def render(searches: Sequence[Search], generated: str) -> str:
    """Return a report on several searches as Markdown; a search without a verdict is named with the reason."""
    lines = ["# Adaptive LoRA: Searches Compared", "", f"**Generated:** {generated}", "", "## Verdicts", ""]
    body = [line for search in searches for line in _lines(search)]
    lines += [tabulate(body, headers=HEADERS, tablefmt="pipe", disable_numparse=True), ""]
    lines += [
        "Each verdict is its own search's, against plain LoRA there, by confirmation runs on its test split, and at "
        "the same budget unless a share of it is named. Differences are in nats per token, and models differ in their "
        "tokens: compare verdicts.", "",
    ]  # fmt: skip
    lines += ["## Strategies over All Searches", "", _counts(searches), ""]
    return "\n".join(lines)


def _lines(search: Search) -> list[list[str]]:
    start = [search.name, search.header.model or "", search.header.dataset or ""]
    found = verdicts.verdicts(search.rows, search.header.margin)
    if not found:
        return [[*start, "", "", "none: no confirmation runs to compare", "", "", ""]]
    return [
        [
            *start, "" if item.params is None else f"{item.params:,}", item.strategy, item.answer,
            "" if item.pairs.mean is None else f"{item.pairs.mean:+.4f}", span(item.pairs.interval),
            str(item.pairs.seeds),
        ]
        for item in found
    ]  # fmt: skip


def _counts(searches: Sequence[Search]) -> str:
    answers = [item for search in searches for item in verdicts.verdicts(search.rows, search.header.margin)]
    kinds = list(dict.fromkeys(item.answer for item in answers))
    names = list(dict.fromkeys(item.strategy for item in answers))
    body = [
        [name, *(str(sum(item.strategy == name and item.answer == kind for item in answers)) for kind in kinds)]
        for name in names
    ]
    return tabulate(body, headers=("strategy", *kinds), tablefmt="pipe", disable_numparse=True)
