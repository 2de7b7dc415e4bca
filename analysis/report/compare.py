"""Several searches in one report: does an allocation that wins in one win in the others?"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results.markup import inline, table
from analysis.results.run_info import RunInfo
from analysis.stats.assessment import SearchAssessment
from analysis.stats.statistics import span

HEADERS = ("search", "model", "data", "parameters", "strategy", "verdict", "difference", "interval", "seeds")


@dataclass(frozen=True, slots=True)
class Search:
    """One search to compare.

    Args:
        name: Name of its run folder.
        info: What the report shows of the run and its rows do not have.
        assessment: What its rows say.
    """

    name: str
    info: RunInfo
    assessment: SearchAssessment


def render(searches: Sequence[Search], generated: str) -> str:
    """Return a report on several searches as Markdown; a search without a verdict is named with the reason."""
    lines = ["# Adaptive LoRA: Searches Compared", "", f"**Generated:** {inline(generated)}", "", "## Verdicts", ""]
    body = [line for search in searches for line in _lines(search)]
    lines += [table(body, HEADERS), ""]
    lines += [
        "Each verdict is its own search's, against plain LoRA there, by confirmation runs on its test split, and at "
        "the same budget unless a share of it is named. Differences are in nats per token, and models differ in their "
        "tokens: compare verdicts.", "",
    ]  # fmt: skip
    lines += ["## Strategies over All Searches", "", _counts(searches), ""]
    return "\n".join(lines)


def _lines(search: Search) -> list[list[str]]:
    search_cells = [search.name, search.info.model or "", search.info.dataset or ""]
    if not search.assessment.verdicts:
        return [[*search_cells, "", "", "none: no confirmation runs to compare", "", "", ""]]
    return [
        [
            *search_cells, "" if verdict.params is None else f"{verdict.params:,}", verdict.strategy, verdict.answer,
            "" if verdict.pairs.mean is None else f"{verdict.pairs.mean:+.4f}", span(verdict.pairs.interval),
            str(verdict.pairs.seeds),
        ]
        for verdict in search.assessment.verdicts
    ]  # fmt: skip


def _counts(searches: Sequence[Search]) -> str:
    judged = [verdict for search in searches for verdict in search.assessment.verdicts]
    answers = list(dict.fromkeys(verdict.answer for verdict in judged))
    names = list(dict.fromkeys(verdict.strategy for verdict in judged))
    body = [
        [
            name,
            *(
                str(sum(verdict.strategy == name and verdict.answer == answer for verdict in judged))
                for answer in answers
            ),
        ]
        for name in names
    ]
    return table(body, ("strategy", *answers))
