"""What the rows of a search say, judged once: its best trials, its verdicts, and the run to use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.results.markup import inline
from analysis.results.rows import MOST_NATS, ResultRow
from analysis.results.trial_config import Phase
from analysis.stats import ranking
from analysis.stats.controls import Control, controls
from analysis.stats.rank_equivalents import Worth
from analysis.stats.rivals import with_rivals
from analysis.stats.sizes import Sizes, margin_in_nats, sizes_of
from analysis.stats.verdicts import (
    NOT_FOUND,
    NULLS,
    PLAIN,
    TOO_LITTLE,
    Verdict,
    confirmed_runs,
    label,
    paired,
    reference_of,
    verdicts,
)


@dataclass(frozen=True, slots=True)
class SearchAssessment:
    """What the rows of a search say: made by ``assess``, and handed to all that tell of it.

    Args:
        rows: All trials, of every phase.
        margin: Difference in test loss that does not matter, in nats per token.
        margin_asked: What was asked for, if that is a share of a doubling; None if it is the margin itself.
        searched: The trials of the search itself.
        best_of_each: Strategy -> its trial of the search of lowest evaluation loss.
        best_trial: The one of lowest evaluation loss of them all; None without a usable one.
        most_efficient: The trial of the search with the smallest trainable share; None if that is unknown of all.
        confirmed: Label -> its confirmation runs, controls' among them.
        reference: Label of what strategies are judged against, as ``reference_of`` chooses it.
        verdicts: On every other strategy that was confirmed, lowest mean difference first.
        sizes: Plain LoRA at other sizes; None if there are none.
        worth: Strategy -> what it is worth in parameters, where that is known; of none where sizes are alike.
        answer: The verdicts in words, a line of Markdown each.
        controls: Every control beside what it is a control of.
        recommended: The run to use; None without a usable one. Of the strategies that win, nulls apart, it is of that
            of lowest mean evaluation loss, else of the reference; of its confirmation runs the one of lowest evaluation
            loss. So which strategies win is all that the test split decides. Without confirmation runs it is the best
            trial.
    """

    rows: Sequence[ResultRow]
    margin: float
    margin_asked: str | None
    searched: Sequence[ResultRow]
    best_of_each: Mapping[str, ResultRow]
    best_trial: ResultRow | None
    most_efficient: ResultRow | None
    confirmed: Mapping[str, Sequence[ResultRow]]
    reference: str
    verdicts: Sequence[Verdict]
    sizes: Sizes | None
    worth: Mapping[str, Worth]
    answer: Sequence[str]
    controls: Sequence[Control]
    recommended: ResultRow | None

    def worth_in_words(self, strategy: str) -> str:
        """Return what a strategy is worth in parameters, without a full stop; empty where that is unknown."""
        worth = self.worth.get(strategy)
        return "" if worth is None else _worth_in_words(worth, self.reference)

    @property
    def nulls_ahead(self) -> list[str]:
        """Labels of nulls that win: controls, which say of no allocation that it is good for anything."""
        wins = [item.strategy for item in self.verdicts if item.answer == "win"]
        return [name for name in wins if self.confirmed[name][0].strategy in NULLS]

    @property
    def plain_runs(self) -> Sequence[ResultRow]:
        """The confirmation runs of the plain LoRA that all others are judged against."""
        return self.confirmed.get(self.reference, ())

    def difference_to_plain(self, run: ResultRow) -> float | None:
        """Return a confirmation run's test loss minus plain LoRA's of the same seed; None if that is unknown."""
        if run.phase != Phase.CONFIRM or self.is_reference(run):
            return None
        return paired([run], self.plain_runs, 1).mean

    def is_reference(self, run: ResultRow) -> bool:
        """Return True if a run is of what strategies are judged against."""
        return run.control_of is None and label(run, run.strategy) == self.reference


def assess(rows: Sequence[ResultRow], margin: float | str, containing_plain: Sequence[str]) -> SearchAssessment:
    """Judge a search.

    Args:
        rows: All its rows, of every phase.
        margin: Difference in test loss that does not matter, as ``sizes.margin_in_nats`` takes it.
        containing_plain: Strategies that have plain LoRA as one of their points.
    """
    searched = [row for row in rows if row.phase == Phase.SEARCH]
    best_trial, confirmed = ranking.best_run(searched), confirmed_runs(rows)
    sizes = sizes_of(rows, confirmed.get(PLAIN, ()))
    nats = margin_in_nats(margin, sizes)
    judged = with_rivals(verdicts(confirmed, nats, searched, containing_plain), confirmed)
    reference = reference_of(confirmed)
    worth = _worth(None if sizes is None or sizes.are_alike(nats) else sizes, judged, confirmed)
    return SearchAssessment(
        rows=rows,
        margin=nats,
        margin_asked=margin if isinstance(margin, str) else None,
        searched=searched,
        best_of_each=ranking.best_of_each_strategy(searched),
        best_trial=best_trial,
        most_efficient=ranking.most_efficient(searched),
        confirmed=confirmed,
        reference=reference,
        verdicts=judged,
        sizes=sizes,
        worth=worth,
        answer=[_in_words(verdict, worth.get(verdict.strategy), reference) for verdict in judged],
        controls=controls(confirmed),
        recommended=_recommended(confirmed, judged, reference) or best_trial,
    )


def _recommended(
    confirmed: Mapping[str, Sequence[ResultRow]], judged: Sequence[Verdict], reference: str
) -> ResultRow | None:
    wins = [confirmed[verdict.strategy] for verdict in judged if verdict.answer == "win"]
    winners = [runs for runs in wins if runs[0].strategy not in NULLS]
    return ranking.best_run(min(winners, key=ranking.mean_loss, default=confirmed.get(reference, ())))


def _worth(
    sizes: Sizes | None, judged: Sequence[Verdict], confirmed: Mapping[str, Sequence[ResultRow]]
) -> dict[str, Worth]:
    """Return what strategies are worth whose runs ended well; one of fewer parameters is compared at its own size.

    Sizes are of one rank everywhere, whatever the verdict is against.
    """
    if sizes is None:
        return {}
    plain = confirmed[PLAIN]
    worths = {
        item.strategy: sizes.worth_of(runs, paired(runs, plain, item.pairs.comparisons))
        for item in judged
        if not item.diverged and item.strategy != PLAIN and (runs := confirmed[item.strategy])
    }
    return {name: worth for name, worth in worths.items() if worth is not None}


def _worth_in_words(worth: Worth, reference: str) -> str:
    """Return a sentence that says which plain LoRA has the parameters, where the verdict is against another."""
    return worth.in_words("" if reference == PLAIN else " on all matrices")


def _in_words(verdict: Verdict, worth: Worth | None, reference: str) -> str:
    failures = f" {verdict.failed} of the runs compared failed, and their seeds are left out." if verdict.failed else ""
    words = "" if worth is None else _worth_in_words(worth, reference)
    times = f" {words[0].upper()}{words[1:]}." if words else ""
    rivals = f" {verdict.tried.sentence}" if verdict.tried.sentence else ""
    reason = f"{_reason(verdict)}{_as_plain(verdict)}"
    return f"- **{inline(verdict.strategy)}: {verdict.reads}.** {reason}{rivals}{times}{failures}"


def _as_plain(verdict: Verdict) -> str:
    """Return what is to be said where plain LoRA is the best point of a strategy, which was confirmed at another."""
    if not verdict.is_best_as_plain or verdict.answer == NOT_FOUND:  # which says so itself
        return ""
    return (
        " In the search plain LoRA, one of its points, did better than all its trials; the best of these was confirmed."
    )


def _reason(verdict: Verdict) -> str:
    if verdict.diverged:
        return f"{verdict.diverged} of the runs compared diverged."
    if len(verdict.pairs.documents) == 1:
        return "The test split is of one document, which says nothing about others."
    if verdict.pairs.interval is None or verdict.pairs.mean is None:
        return f"{verdict.pairs.seeds} seed(s) with a result on both sides; it takes at least two."
    low, high = verdict.pairs.interval
    change = math.expm1(min(verdict.pairs.mean, MOST_NATS))
    text = (
        f"Test loss {verdict.pairs.mean:+.4f} against {verdict.reference} (interval {low:+.4f} to {high:+.4f}, "
        f"{verdict.pairs.seeds} seeds), which is {change:+.2%} in perplexity."
    )
    if not verdict.pairs.documents:
        text += " It holds for these test texts alone: the runs do not know the losses of single documents."
    if verdict.answer == NOT_FOUND:
        return f"{text} {_longer(verdict)}"
    if verdict.answer == TOO_LITTLE:
        return f"{text} That is less than the {verdict.margin:.2g} that was said to matter."
    if verdict.answer in {"win", "loss"} and abs(verdict.pairs.mean) < verdict.margin:
        return f"{text} That is less than the {verdict.margin:.2g} that was said to matter."
    if verdict.answer != "cannot tell":
        return text
    if (
        verdict.needed is None
        and replace(verdict.pairs, documents=()).seeds_needed(verdict.margin, verdict.fewer) is not None
    ):
        return f"{text} No number of seeds would tell: texts differ too much, and more of them are needed."
    if verdict.needed is None:
        return f"{text} Not even 1,000 seeds would tell, if their spread stays as it is."
    return f"{text} About {verdict.needed} seeds would tell."


def _longer(verdict: Verdict) -> str:
    """Return what search would have been long enough for a strategy that has plain LoRA as one of its points."""
    start = "Plain LoRA is one of its points, so it need not lose"
    if verdict.trials is None:
        return f"{start}: more trials (--extend)."
    if verdict.trials_needed is None:
        better = (
            f"{verdict.came_up} of its {verdict.trials} trials came up to plain LoRA's best on the validation split"
        )
        return f"{start}: {better}, so that split has too few examples to choose by (--validation-examples)."
    none = f"none of its {verdict.trials} trials came up to plain LoRA's best"
    return f"{start}: {none}, and about {verdict.trials_needed} trials of it would (--extend)."
