"""The verdict: every strategy's confirmation runs against plain LoRA's, seed by seed, on the test split."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from analysis.results.rows import ResultRow
from analysis.results.run_info import CONTAINING_PLAIN
from analysis.results.trial_config import Phase, Status
from analysis.stats.looks import error_of
from analysis.stats.ranking import mean_loss
from analysis.stats.statistics import POWER, Answer, Paired, Said, has_fewer, judge

PLAIN = "baseline"
SEARCHED_PLAIN = "plain"
"""Plain LoRA on a set of matrices. It takes the place of ``PLAIN`` where it is ahead of it on the validation split."""
SETS = {"mlp": " on the MLP", "attention": " on attention", "upper_half": " on the upper half of the blocks"}
TOO_LITTLE: Final = "ahead, by too little to matter"
NOT_TRIED: Final = "ahead, not yet tried against the strongest rivals"
NOT_FOUND: Final = "not found: the search was too short"


NULLS = ("random", "layer_lr")
"""Strategies that are controls themselves: ranks at random, rates by depth in place of ranks. None is recommended."""
RIVALS = (SEARCHED_PLAIN, *NULLS)
"""The strongest simple rivals: plain LoRA on a set of matrices, and the nulls."""


RIVALS_IN_WORDS = {
    "shuffled": "its scores dealt to other matrices",
    "inverted": "its scores turned round",
    "frozen": "plain LoRA with its ranks from the start",
    "plain": "plain LoRA on a set of matrices",
    "random": "ranks at random",
    "layer_lr": "learning rates by depth in place of ranks",
}


def in_full(names: Sequence[str]) -> str:
    """Return labels of rivals and controls as a sentence has them, each with what it is; empty without any."""
    return listed([f"{RIVALS_IN_WORDS[name.split()[0]]} ({name})" for name in names]) if names else ""


@dataclass(frozen=True, slots=True)
class Tried:
    """How a win stands against rivals and controls, each by an interval of the paired difference.

    Args:
        beaten: Those whose interval excludes 0.
        unbeaten: The others that were trained.
        missing: Of ``RIVALS`` those that were not.
    """

    beaten: tuple[str, ...] = ()
    unbeaten: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is to be said of it; empty if nothing was tried."""
        missing = f"the strongest rivals ({listed(self.missing)})" if self.missing == RIVALS else in_full(self.missing)
        parts = {
            "It beats": in_full(self.beaten),
            "does not beat": in_full(self.unbeaten),
            "was not tried against": missing,
        }
        said = [f"{verb} {names}" for verb, names in parts.items() if names]
        return f"{'' if self.beaten else 'It '}{'; it '.join(said)}." if said else ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a strategy's confirmation runs.

    Args:
        strategy: The strategy's label, with its share of the budget if that is not the whole.
        answer: One of five, or how it reads where more is known: a win that lies within the margin is ``TOO_LITTLE``, a
            loss of a strategy that has plain LoRA as one of its points is ``NOT_FOUND``.
        pairs: Its test loss minus the reference's, a value per seed that both finished.
        losses: Its test losses.
        params: Its trainable parameters; None if unknown.
        fewer: True if these are known to be at least 5 % fewer than plain LoRA's.
        diverged: Number of its and plain LoRA's runs that diverged.
        failed: Number of its and plain LoRA's runs that failed; their seeds are left out.
        needed: Seeds that would be enough for an answer; None if unknown.
        margin: Difference that does not matter.
        trials: How many trials of it the search had; None if that is not known.
        came_up: How many of them were no worse than plain LoRA's best on the validation split.
        reference: What it is judged against, in words.
        tried: Of a win, how it stands against rivals and controls.
        has_reference: Whether what it is judged against is one of its own points.
    """

    strategy: str
    answer: Said
    pairs: Paired
    losses: tuple[float, ...]
    params: int | None
    fewer: bool
    diverged: int
    failed: int
    needed: int | None
    margin: float
    trials: int | None = None
    came_up: int = 0
    reference: str = "plain LoRA"
    tried: Tried = Tried()
    has_reference: bool = False

    @property
    def is_best_as_plain(self) -> bool:
        """True if of all its points plain LoRA's, which is never confirmed for it, did best in the search."""
        return self.has_reference and self.trials is not None and not self.came_up

    @property
    def reads(self) -> str:
        """The answer as people read it: a win over plain LoRA alone is not yet one over the strongest rivals."""
        return NOT_TRIED if self.answer == "win" and self.tried.missing else self.answer

    @property
    def trials_needed(self) -> int | None:
        """About how many trials find a point no worse than plain LoRA's best, 8 times in 10; None if some were found.

        By Laplace's rule of succession the next trial is one with probability 1 / (trials + 2), if none was.
        """
        if self.trials is None or self.came_up:
            return None
        return self.trials + math.ceil(math.log(1 - POWER) / math.log1p(-1 / (self.trials + 2)))


def verdicts(
    confirmed: Mapping[str, Sequence[ResultRow]],
    margin: float,
    searched: Sequence[ResultRow] = (),
    containing_plain: Sequence[str] = CONTAINING_PLAIN,
) -> list[Verdict]:
    """Judge every strategy that was confirmed, controls apart, against the reference; lowest mean difference first.

    A strategy of which a run diverged gets no verdict: leaving that run out would flatter it. If one of plain LoRA did,
    none gets any.

    Args:
        confirmed: Label -> its confirmation runs, as ``confirmed_runs`` gives them.
        margin: Difference in test loss that does not matter, in nats per token.
        searched: The trials of the search.
        containing_plain: Strategies that have plain LoRA as one of their points.
    """
    reference = reference_of(confirmed)
    others = [name for name, runs in confirmed.items() if name != reference and runs[0].control_of is None]
    runs = confirmed.get(reference, ())
    judged = [_judged(name, confirmed[name], runs, len(others), margin, containing_plain) for name in others]
    judged = [_with_search(verdict, searched) for verdict in judged]
    return sorted(judged, key=lambda verdict: math.inf if verdict.pairs.mean is None else verdict.pairs.mean)


def reference_of(confirmed: Mapping[str, Sequence[ResultRow]]) -> str:
    """Return the label of what strategies are judged against: of two kinds of plain LoRA the better one.

    It is one rank everywhere, unless plain LoRA on a set of matrices was searched, all runs of both ended well, and its
    mean loss on the validation split is lower. The test split has no part in the choice.

    Args:
        confirmed: Label -> its confirmation runs.
    """
    kinds = {name: confirmed[name] for name in (PLAIN, SEARCHED_PLAIN) if name in confirmed}
    if len(kinds) < 2 or any(row.status != Status.FINISHED for runs in kinds.values() for row in runs):
        return PLAIN
    return min(kinds, key=lambda name: mean_loss(kinds[name]))


def in_words(run: ResultRow) -> str:
    """Return what a run is of, in words: plain LoRA, and on which matrices if not on all, or the strategy's name."""
    if run.strategy not in {PLAIN, SEARCHED_PLAIN}:
        return run.strategy
    return f"plain LoRA{SETS.get(str(run.trial_config.params.get('modules')), '')}"


def confirmed_runs(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """Return label -> its confirmation runs.

    A label is the strategy; of a control with what it is a control of, of a smaller one with its share of the budget.
    """
    runs_of_label: dict[str, list[ResultRow]] = {}
    for row in rows:
        if row.phase == Phase.CONFIRM:
            original = row.control_of
            runs_of_label.setdefault(
                label(row, row.strategy if original is None else f"{row.strategy} {original}"), []
            ).append(row)
    return runs_of_label


def label(row: ResultRow, name: str) -> str:
    """Return a name with the run's share of the budget, if that is not the whole."""
    share = 1.0 if row.budget_share is None else row.budget_share
    return name if share == 1 else f"{name} at {share:.2g} of the budget"


def paired(runs: Sequence[ResultRow], others: Sequence[ResultRow], comparisons: int) -> Paired:
    """Return the test losses of ``runs`` minus those of ``others``, seed by seed; ``comparisons`` share the level."""
    other_by_seed = {row.seed: row for row in others if row.seed is not None}
    pairs = [
        (row, other_by_seed[row.seed]) for row in {row.seed: row for row in runs}.values() if row.seed in other_by_seed
    ]
    differences, complete_pairs = [], []
    for run, other in pairs:
        if run.test_loss is not None and other.test_loss is not None:
            differences.append(run.test_loss - other.test_loss)
            complete_pairs.append((run, other))
    return Paired(tuple(differences), comparisons, *_documents(complete_pairs), error=error_of(runs))


def params_of(runs: Sequence[ResultRow]) -> int | None:
    """Return the trainable parameters of the largest run that finished; None if unknown."""
    sizes = [row.trainable_parameters for row in runs if row.status == Status.FINISHED]
    return max((size for size in sizes if size is not None), default=None)


def _judged(
    name: str,
    runs: Sequence[ResultRow],
    plain: Sequence[ResultRow],
    rivals: int,
    margin: float,
    containing_plain: Sequence[str],
) -> Verdict:
    reference = in_words(plain[0]) if plain else "plain LoRA"
    pairs, params = paired(runs, plain, rivals), params_of(runs)
    fewer = has_fewer(params, params_of(plain))
    ends = Counter(row.status for row in (*runs, *_beside(runs, plain)))
    diverged, failed = ends[Status.DIVERGED], ends[Status.FAILED]
    answer: Answer = "cannot tell" if diverged else judge(pairs, margin, fewer)
    has_reference = name in containing_plain and reference == "plain LoRA"
    said: Said = _read(answer, pairs, margin, has_reference)
    needed = pairs.seeds_needed(margin, fewer) if answer == "cannot tell" and not diverged else None
    losses = tuple(row.test_loss for row in runs if row.test_loss is not None)
    verdict = Verdict(name, said, pairs, losses, params, fewer, diverged, failed, needed, margin, reference=reference)
    return replace(verdict, has_reference=has_reference)


def _beside(runs: Sequence[ResultRow], plain: Sequence[ResultRow]) -> Sequence[ResultRow]:
    """Return plain LoRA's runs that a strategy was judged by; it may have more, since others are looked at later."""
    seeds = {row.seed for row in runs}
    return [row for row in plain if row.seed in seeds] if runs[0].trial_config.looks else plain


def _read(answer: Answer, pairs: Paired, margin: float, has_it_as_a_point: bool) -> Said:
    """Return how an answer reads where more is known than the interval."""
    if answer == "win" and pairs.interval is not None and pairs.interval[0] > -margin:
        return TOO_LITTLE
    if answer == "loss" and has_it_as_a_point:
        return NOT_FOUND
    return answer


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _with_search(verdict: Verdict, searched: Sequence[ResultRow]) -> Verdict:
    """Return a verdict with how many trials its strategy had, and how many came up to plain LoRA's best."""
    plain, losses = _full_losses(searched, PLAIN), _full_losses(searched, verdict.strategy)
    trials = sum(row.strategy == verdict.strategy for row in searched)
    if not plain or not trials:
        return verdict
    return replace(verdict, trials=trials, came_up=sum(loss <= min(plain) for loss in losses))


def _full_losses(rows: Sequence[ResultRow], strategy: str) -> list[float]:
    """Return the evaluation losses of a strategy's trials that were trained in full."""
    full = (row.final_eval_loss for row in rows if row.strategy == strategy and row.status == Status.FINISHED)
    return [loss for loss in full if loss is not None]


def _documents(
    pairs: Sequence[tuple[ResultRow, ResultRow]],
) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]:
    """Return each document's tokens, and its differences by pair; empty if a run has no losses of its documents."""
    documents_of_pairs = [(run.test_documents or (), other.test_documents or ()) for run, other in pairs]
    tokens = {tuple(count for _, count in run_documents) for pair in documents_of_pairs for run_documents in pair}
    if len(tokens) != 1 or not (counts := tokens.pop()):
        return (), ()
    differences = (
        tuple(loss - other_loss for (loss, _), (other_loss, _) in zip(run, other, strict=True))
        for run, other in documents_of_pairs
    )
    return counts, tuple(differences)
