"""The verdict: every strategy's confirmation runs against plain LoRA's, seed by seed, on the test split."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status
from analysis.stats.statistics import Answer, Paired, has_fewer, judge

PLAIN = "baseline"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a strategy's confirmation runs.

    Args:
        strategy: The strategy's label, with its share of the budget if that is not the whole.
        answer: One of five.
        pairs: Its test loss minus plain LoRA's, a value per seed that both finished.
        losses: Its test losses.
        params: Its trainable parameters; None if unknown.
        fewer: True if these are known to be at least 5 % fewer than plain LoRA's.
        diverged: Number of its and plain LoRA's runs that diverged.
        failed: Number of its and plain LoRA's runs that failed; their seeds are left out.
        needed: Seeds that would be enough for an answer; None if unknown.
        margin: Difference that does not matter.
    """

    strategy: str
    answer: Answer
    pairs: Paired
    losses: tuple[float, ...]
    params: int | None
    fewer: bool
    diverged: int
    failed: int
    needed: int | None
    margin: float


def verdicts(confirmed: Mapping[str, Sequence[ResultRow]], margin: float) -> list[Verdict]:
    """Judge every strategy that was confirmed, controls apart, against plain LoRA; lowest mean difference first.

    A strategy of which a run diverged gets no verdict: leaving that run out would flatter it. If one of plain LoRA did,
    none gets any.

    Args:
        confirmed: Label -> its confirmation runs, as ``confirmed_runs`` gives them.
        margin: Difference in test loss that does not matter, in nats per token.
    """
    plain = confirmed.get(PLAIN, ())
    rivals = [name for name, runs in confirmed.items() if name != PLAIN and runs[0].control_of is None]
    judged = [_judged(name, confirmed[name], plain, len(rivals), margin) for name in rivals]
    return sorted(judged, key=lambda verdict: math.inf if verdict.pairs.mean is None else verdict.pairs.mean)


def is_plain(run: ResultRow) -> bool:
    """Return True if a run is of what strategies are judged against: plain LoRA with the whole budget."""
    return label(run, run.strategy) == PLAIN


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
    return Paired(tuple(differences), comparisons, *_documents(complete_pairs))


def params_of(runs: Sequence[ResultRow]) -> int | None:
    """Return the trainable parameters of the largest run that finished; None if unknown."""
    sizes = [row.trainable_parameters for row in runs if row.status == Status.FINISHED]
    return max((size for size in sizes if size is not None), default=None)


def _judged(name: str, runs: Sequence[ResultRow], plain: Sequence[ResultRow], rivals: int, margin: float) -> Verdict:
    pairs, params = paired(runs, plain, rivals), params_of(runs)
    fewer = has_fewer(params, params_of(plain))
    ends = Counter(row.status for row in (*runs, *plain))
    diverged, failed = ends[Status.DIVERGED], ends[Status.FAILED]
    answer: Answer = "cannot tell" if diverged else judge(pairs, margin, fewer)
    needed = pairs.seeds_needed(margin, fewer) if answer == "cannot tell" and not diverged else None
    losses = tuple(row.test_loss for row in runs if row.test_loss is not None)
    return Verdict(name, answer, pairs, losses, params, fewer, diverged, failed, needed, margin)


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
