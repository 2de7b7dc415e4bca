"""Several searches in one report: what won where, and does what wins in one win in the others?"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from analysis.results.markup import inline, table
from analysis.results.rows import MOST_NATS
from analysis.results.run_info import RunInfo
from analysis.stats import travel
from analysis.stats.assessment import SearchAssessment
from analysis.stats.recommendation import percent, ranks_in_words, recommend
from analysis.stats.statistics import span
from analysis.stats.verdicts import Verdict, in_words

HEADERS = ("search", "model", "data", "parameters", "strategy", "verdict", "difference", "interval", "seeds")
WON = ("search", "model", "data", "budget", "answer", "use", "test perplexity against plain LoRA", "would have shown")
TRAVELS = (
    "search", "other search", "ahead", "ahead there", "strategies in both", "tau of their differences",
    "matrices in both", "tau of their ranks",
)  # fmt: skip
MOST_PAIRS = 100


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
    lines = ["# Adaptive LoRA: Searches Compared", "", f"**Generated:** {inline(generated)}", ""]
    lines += ["## What Won Where", "", _ahead(searches), "", table([_won(search) for search in searches], WON), ""]
    lines += [*_travels(searches), "## Verdicts", ""]
    body = [line for search in searches for line in _lines(search)]
    lines += [table(body, HEADERS), ""]
    lines += [
        "Each verdict is its own search's, against plain LoRA there, by confirmation runs on its test split, and at "
        "the same budget unless a share of it is named. Differences are in nats per token, and models differ in their "
        "tokens: compare verdicts.", "",
    ]  # fmt: skip
    lines += ["## Strategies over All Searches", "", _counts(searches), ""]
    return "\n".join(lines)


def _ahead(searches: Sequence[Search]) -> str:
    """Return how often each is ahead, in a sentence."""
    names = ((travel.ahead(search.assessment), search.assessment) for search in searches)
    counts = Counter(_name(name, assessment) for name, assessment in names if name is not None)
    if not counts:
        return "No search has confirmation runs, so nothing can be said to be ahead."
    each = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
    return f"Lowest mean test loss, whether or not that is a win: {inline(each)}, of {counts.total()} with verdicts."


def _name(name: str, assessment: SearchAssessment) -> str:
    """Return a label of confirmation runs in words: which plain LoRA it is, or the strategy."""
    run = assessment.confirmed[name][0]
    return f"{in_words(run)}{name.removeprefix(run.strategy)}"


def _won(search: Search) -> list[str]:
    recommendation, info = recommend(search.assessment), search.info
    run, budget = recommendation.run, info.budget_params
    used = "" if run is None else f"{in_words(run)}, {ranks_in_words(run)}"
    seen = "" if recommendation.visible is None else percent(-math.expm1(-recommendation.visible))
    size = "" if budget is None else f"{budget:,}"
    worth = "" if recommendation.verdict is None else _worth(recommendation.verdict)
    return [search.name, info.model or "", info.dataset or "", size, str(recommendation.choice), used, worth, seen]


def _worth(verdict: Verdict) -> str:
    """Return what the winner, or else what came nearest, does to the test perplexity."""
    if verdict.pairs.mean is None:
        return ""
    low, high = verdict.pairs.interval or (math.nan, math.nan)
    around = "" if math.isnan(low) else f" ({_change(low)} to {_change(high)})"
    return f"{verdict.strategy}: {_change(verdict.pairs.mean)}{around}"


def _change(difference: float) -> str:
    return f"{math.expm1(min(difference, MOST_NATS)):+.2%}"


def _travels(searches: Sequence[Search]) -> list[str]:
    """Return what searches have in common, two and two."""
    pairs = list(combinations(searches, 2))[:MOST_PAIRS]
    return [
        "## What Travels", "",
        "Two searches a line. Kendall's tau is 1 for the same order, 0 for none in common, -1 for the opposite one: of "
        "the strategies that both have judged, by their mean difference to plain LoRA; and of the ranks that the "
        "allocation nearest to winning gives to matrices of the same kind and relative depth. One run is behind each "
        "allocation, so that a small tau of ranks may be chance.", "",
        table([_pair(*pair) for pair in pairs], TRAVELS), "",
    ]  # fmt: skip


def _pair(search: Search, other: Search) -> list[str]:
    assessments = [each.assessment for each in (search, other)]
    strategies, judged = travel.order_of_strategies(*map(travel.means_of, assessments))
    runs = [travel.allocation_of(each) for each in assessments]
    ranks, matrices = travel.order_of_ranks(*((run.ranks or {}) if run else {} for run in runs))
    ahead = ["" if (name := travel.ahead(each)) is None else _name(name, each) for each in assessments]
    return [search.name, other.name, *ahead, str(judged), _tau(strategies), str(matrices), _tau(ranks)]


def _tau(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _lines(search: Search) -> list[list[str]]:
    search_cells = [search.name, search.info.model or "", search.info.dataset or ""]
    if not search.assessment.verdicts:
        return [[*search_cells, "", "", "none: no confirmation runs to compare", "", "", ""]]
    return [
        [
            *search_cells, "" if verdict.params is None else f"{verdict.params:,}", verdict.strategy, verdict.reads,
            "" if verdict.pairs.mean is None else f"{verdict.pairs.mean:+.4f}", span(verdict.pairs.interval),
            str(verdict.pairs.seeds),
        ]
        for verdict in search.assessment.verdicts
    ]  # fmt: skip


def _counts(searches: Sequence[Search]) -> str:
    judged = [verdict for search in searches for verdict in search.assessment.verdicts]
    answers = list(dict.fromkeys(verdict.reads for verdict in judged))
    names = list(dict.fromkeys(verdict.strategy for verdict in judged))
    body = [
        [
            name,
            *(
                str(sum(verdict.strategy == name and verdict.reads == answer for verdict in judged))
                for answer in answers
            ),
        ]
        for name in names
    ]
    return table(body, ("strategy", *answers))
