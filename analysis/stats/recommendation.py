"""What to use, in three plain sentences: which, how sure that is, and what it is worth or would take to know more."""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import StrEnum

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase
from analysis.stats.assessment import SearchAssessment
from analysis.stats.rivals import in_question
from analysis.stats.statistics import POWER
from analysis.stats.verdicts import (
    NOT_FOUND,
    PLAIN,
    SEARCHED_PLAIN,
    TOO_LITTLE,
    Verdict,
    in_full,
    in_words,
    label,
    listed,
)


class Choice(StrEnum):
    """What a search says to use."""

    ADAPTIVE = "adaptive"  # an allocation that beat plain LoRA
    PLAIN = "plain"  # every other was judged, and none beat it, or none but a null
    UNDECIDED = "undecided"  # nothing was compared, or of one at least nobody can tell


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to use.

    Args:
        choice: Which of three it is.
        run: The run to use; None without a usable one.
        verdict: The verdict on what it is a run of, or else on what came nearest to plain LoRA; None without any.
        visible: The least advantage in test loss, in nats per token, that the seeds would have shown; None if unknown.
        sentences: What to use; how sure that is; what it would take to know more.
    """

    choice: Choice
    run: ResultRow | None
    verdict: Verdict | None
    visible: float | None
    sentences: tuple[str, str, str]


def recommend(assessment: SearchAssessment) -> Recommendation:
    """Return what to use, by the verdicts alone; single runs of the search decide nothing."""
    run, judged = assessment.recommended, assessment.verdicts
    if run is None or run.phase != Phase.CONFIRM or not judged:
        return Recommendation(Choice.UNDECIDED, run, None, None, _unconfirmed(assessment))
    winner = next((item for item in judged if item.strategy == label(run, run.strategy)), None)
    asked = in_question(judged)
    visible = max((item.pairs.visible or 0.0 for item in _seen(asked)), default=None)
    if winner is not None:
        choice = Choice.PLAIN if run.strategy in {PLAIN, SEARCHED_PLAIN} else Choice.ADAPTIVE
        return Recommendation(choice, run, winner, visible, _of_a_winner(run, winner, assessment))
    undecided = any(item.answer == "cannot tell" for item in asked)
    more = f"{_to_see(asked, visible)}{_not_found(asked)}"
    nothing = _nothing_beat_it(asked, visible, assessment.nulls_ahead)
    sentences = (f"Use {in_words(run)}, {ranks_in_words(run)}.", nothing, more)
    return Recommendation(Choice.UNDECIDED if undecided else Choice.PLAIN, run, judged[0], visible, sentences)


def ranks_in_words(run: ResultRow) -> str:
    """Return ``rank 2``, or from where to where the ranks go; the parameters of a run whose ranks are unknown."""
    ranks = sorted((run.ranks or {}).values())
    if not ranks:
        size = run.trainable_parameters
        return "ranks unknown" if size is None else f"{size:,} parameters"
    return f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"


def percent(share: float) -> str:
    """Return a share in percent with two significant digits."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 10 else f"{value:.2g} %"


def _unconfirmed(assessment: SearchAssessment) -> tuple[str, str, str]:
    """Return the sentences where no two ways to train were compared on the same seeds."""
    run = assessment.recommended
    if run is None:
        ahead = "See under Diverged and Failed what ended the trials."
        return "Nothing can be recommended.", "No trial finished with a loss.", ahead
    if run.phase == Phase.CONFIRM:
        nothing_else = "Nothing else was trained on the same seeds, so nothing says that it is better or worse."
        ahead = "To compare: search more strategies than one (--strategies)."
        return f"Undecided: only plain LoRA, {ranks_in_words(run)}, was confirmed.", nothing_else, ahead
    name = in_words(run)
    return (
        "Undecided: nothing was confirmed against plain LoRA.",
        f"The best single run is of {name}, {ranks_in_words(run)}, and a single run may be best by chance.",
        "To decide: --confirm-seeds 3 trains the best of each strategy, and plain LoRA, again from fresh seeds.",
    )


def _of_a_winner(run: ResultRow, winner: Verdict, assessment: SearchAssessment) -> tuple[str, str, str]:
    judged = assessment.verdicts
    name = f"{in_words(run)}{winner.strategy.removeprefix(run.strategy)}"
    size = "" if winner.params is None else f" and {winner.params:,} parameters"
    times = _times(assessment, winner.strategy)
    use = f"Use {name}, with {ranks_in_words(run)}{size}: it beat {winner.reference}{times}."
    low, high = winner.pairs.interval or (0.0, 0.0)
    mean = -math.expm1(winner.pairs.mean or 0.0)
    span = f"{percent(-math.expm1(high))} to {percent(-math.expm1(low))}"
    others = "and other test texts" if winner.pairs.documents else "on these test texts"
    right = _right_at_once(len(judged))
    worth = (
        f"Its test perplexity is {percent(mean)} lower ({span}, {winner.pairs.seeds} seeds); {right}, 95 times in 100,"
    )
    too_small = abs(winner.pairs.mean or 0.0) < winner.margin
    less = f", which is less than the {percent(margin_share(winner.margin))} that was said to matter"
    trained = {row.strategy for row in assessment.rows}
    held = f"{worth} for other seeds {others}{less if too_small else ''}.{_rivals(winner, trained)}"
    return use, held, _other_winners(winner, judged, assessment.nulls_ahead)


def _rivals(winner: Verdict, trained: Container[str]) -> str:
    """Return what is to be said of a winner's rivals.

    Args:
        winner: The verdict on it.
        trained: Strategies that the search has trials of; another search would be no better at those.
    """
    said = f" {winner.tried.sentence}" if winner.tried.sentence else ""
    if not winner.tried.missing:
        return said
    ended_badly = [name for name in winner.tried.missing if name in trained]
    if ended_badly:
        said += f" Too few runs of {listed(ended_badly)} ended well."
    return said if len(ended_badly) == len(winner.tried.missing) else f"{said} To try all of them: --thorough."


def _right_at_once(intervals: int) -> str:
    if intervals == 1:
        return "the interval is right"
    return f"the intervals of {'both' if intervals == 2 else f'all {intervals}'} comparisons are right at once"


def _times(assessment: SearchAssessment, strategy: str) -> str:
    worth = assessment.worth.get(strategy)
    unknown = worth is None or (worth.low is None and worth.high is None)
    return "" if unknown else f" and is {assessment.worth_in_words(strategy)}"


def margin_share(margin: float) -> float:
    """Return the share of perplexity that a margin in nats per token is."""
    return -math.expm1(-margin)


def _other_winners(winner: Verdict, judged: Sequence[Verdict], nulls: Sequence[str]) -> str:
    wins = [item.strategy for item in judged if item.answer == "win" and item is not winner]
    others = [name for name in wins if name not in nulls]
    controls = f"So did {in_full(nulls)}; {_controls(nulls)} never recommended." if nulls else ""
    if not others:
        return controls or ("No other beat it." if len(judged) == 1 else "Of the others none beat it.")
    lowest = f"{winner.strategy} has the lowest validation loss of them all"
    return f"{listed(others)} beat plain LoRA, too; {lowest}. {controls}".rstrip()


def _controls(names: Sequence[str]) -> str:
    return "a control is" if len(names) == 1 else "controls are"


def _seen(judged: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts that would have shown a difference that is large enough."""
    return [item for item in judged if item.pairs.interval is not None and not item.diverged]


def _nothing_beat_it(judged: Sequence[Verdict], visible: float | None, nulls: Sequence[str]) -> str:
    unsure = [item for item in judged if item.answer == "cannot tell"]
    ahead = [item.strategy for item in judged if item.answer == TOO_LITTLE]
    start = f"Nothing beat it by what matters ({listed(ahead)} by less)" if ahead else "Nothing beat it"
    start += f" but {in_full(nulls)}; {_controls(nulls)} never recommended" if nulls else ""
    start += f", but {_of_whom(unsure, judged)} cannot be told yet" if unsure else ""
    if visible is None:
        return f"{start}: {_why_nothing_is_seen(judged)}."
    seeds = min(item.pairs.seeds for item in _seen(judged))
    seen = f"with {seeds} seeds we would have seen {percent(margin_share(visible))}, {POWER * 10:.0f} times in 10"
    blind = [item.strategy for item in judged if item not in _seen(judged)]
    return f"{start}; {seen}{f', but not of {listed(blind)}' if blind else ''}."


def _of_whom(unsure: Sequence[Verdict], judged: Sequence[Verdict]) -> str:
    if len(unsure) == len(judged) > 1:
        return "of both it" if len(judged) == 2 else f"of all {len(judged)} it"
    return f"of {listed([item.strategy for item in unsure])} it"


def _why_nothing_is_seen(judged: Sequence[Verdict]) -> str:
    if any(item.diverged for item in judged):
        return "runs diverged"
    if any(len(item.pairs.documents) == 1 for item in judged):
        return "the test split is of one document"
    return "it takes at least two seeds with a result on both sides"


def _to_see(judged: Sequence[Verdict], visible: float | None) -> str:
    """Return what it would take to see the difference that matters, or that it would have been seen."""
    margin = judged[0].margin
    what = percent(margin_share(margin))
    if visible is None:
        return f"To see {what}: --confirm-seeds 3 is the least, 10 is usual."
    if visible <= margin:
        smaller = [item.strategy for item in judged if item.answer == "non-inferior with fewer parameters"]
        also = f" {listed(smaller)} is no more than that behind, with fewer parameters." if smaller else ""
        return f"So {what}, the least that was said to matter, would have been seen.{also}"
    counts = [item.pairs.seeds_to_see(margin) for item in _seen(judged)]
    if None in counts:
        return f"To see {what}: more test texts (--test-examples), for no number of seeds would do."
    return f"To see {what}: about {max(count for count in counts if count)} seeds (--confirm-seeds)."


def _not_found(judged: Sequence[Verdict]) -> str:
    names = [item.strategy for item in judged if item.answer == NOT_FOUND]
    return f" Of {listed(names)} the search was too short: plain LoRA is a point of it." if names else ""
