"""The verdict: every strategy's confirmation runs against plain LoRA's, seed by seed, on the test split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis import ranking
from analysis.rows import ResultRow
from analysis.statistics import Answer, Paired, judge

PLAIN = "baseline"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What confirmation runs say about a strategy.

    Args:
        strategy: Whose.
        answer: One of five.
        pairs: Its test loss minus plain LoRA's, a value per seed that both finished.
        losses: Its test losses.
        params: Its trainable parameters.
        diverged: Runs without a loss.
        needed: Seeds that would be enough to tell, if that is known.
        margin: Difference that does not matter.
    """

    strategy: str
    answer: Answer
    pairs: Paired
    losses: tuple[float, ...]
    params: int
    diverged: int
    needed: int | None
    margin: float


def verdicts(rows: Sequence[ResultRow], margin: float) -> list[Verdict]:
    """Judge every strategy that was confirmed, controls apart, against plain LoRA; lowest mean difference first.

    A strategy of which a run diverged gets no verdict: leaving that run out would flatter it.

    Args:
        rows: Of a search, all phases.
        margin: Difference in test loss that does not matter, in nats per token.
    """
    confirmed = confirmed_runs(rows)
    plain = confirmed.get(PLAIN, [])
    rivals = [name for name, runs in confirmed.items() if name != PLAIN and control_of(runs[0]) is None]
    found = [_judged(name, confirmed[name], plain, len(rivals), margin) for name in rivals]
    return sorted(found, key=lambda item: math.inf if item.pairs.mean is None else item.pairs.mean)


def controls(rows: Sequence[ResultRow]) -> dict[str, tuple[str, Paired]]:
    """Return control -> (what it is a control of, the test loss of that minus the control's by seed).

    A control is called by its kind and what it is a control of, such as ``shuffled composite``.
    """
    confirmed = confirmed_runs(rows)
    named = {runs[0].strategy: name for name, runs in confirmed.items()}  # a frozen strategy has a control of its own
    found = {}
    for name, runs in confirmed.items():
        original = control_of(runs[0])
        if original is not None:
            original = named.get(original, original)
            found[name] = (original, paired(confirmed.get(original, []), runs, 1))
    return found


def recommended(rows: Sequence[ResultRow], margin: float) -> ResultRow | None:
    """Return the run to use: of those that win the strategy of lowest mean evaluation loss, else plain LoRA; of its
    confirmation runs the one of lowest evaluation loss.

    Which strategies win is all that the test split decides. Without confirmation runs it is the best trial of all.
    """
    searched = [row for row in rows if row.phase == "search"]
    wins = {item.strategy for item in verdicts(rows, margin) if item.answer == "win"}
    confirmed = confirmed_runs(rows)
    means = {name: mean for name in wins for mean, _ in ranking.mean_losses(confirmed[name]).values()}
    best = min(means, key=means.__getitem__, default=PLAIN)
    return ranking.best_run(confirmed.get(best, [])) or ranking.best_run(searched)


def beside_plain(run: ResultRow, rows: Sequence[ResultRow]) -> str | None:
    """Say how one confirmation run does against plain LoRA's of the same seed; None where that is not known."""
    difference = paired([run], confirmed_runs(rows).get(PLAIN, []), 1).mean
    if run.phase != "confirm" or run.strategy == PLAIN or difference is None:
        return None
    seed = "against plain LoRA of the same seed; the verdict is on the mean of all seeds"
    return f"{difference:+.4f} nats per token {seed}"


def control_of(row: ResultRow) -> str | None:
    """Return the strategy that a run is a control of, if it is one."""
    own = row.config.get(row.strategy)
    return own.get("of") if isinstance(own, dict) else None


def confirmed_runs(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """Return label -> its confirmation runs.

    A label is the strategy; of a control with what it is a control of, of a smaller one with its share of the budget.
    """
    found: dict[str, list[ResultRow]] = {}
    for row in rows:
        if row.phase == "confirm":
            found.setdefault(_label(row), []).append(row)
    return found


def paired(runs: Sequence[ResultRow], others: Sequence[ResultRow], comparisons: int) -> Paired:
    """Return the test losses of ``runs`` minus those of ``others``, seed by seed; ``comparisons`` share the level."""
    theirs = {row.seed: row for row in others}
    pairs = [(row, theirs[row.seed]) for row in runs if row.seed in theirs]
    differences, both = [], []
    for mine, other in pairs:
        if mine.test_loss is not None and other.test_loss is not None:
            differences.append(mine.test_loss - other.test_loss)
            both.append((mine, other))
    return Paired(tuple(differences), comparisons, _documents(both))


def most_params(runs: Sequence[ResultRow]) -> int:
    """Return the trainable parameters of the largest run; 0 if none is known."""
    return max((row.trainable_parameters or 0 for row in runs), default=0)


def _judged(name: str, runs: Sequence[ResultRow], plain: Sequence[ResultRow], rivals: int, margin: float) -> Verdict:
    pairs = paired(runs, plain, rivals)
    params, plain_params = most_params(runs), most_params(plain)
    diverged = sum(row.status == "diverged" for row in (*runs, *plain))
    answer: Answer = "cannot tell" if diverged else judge(pairs, margin, params, plain_params)
    needed = pairs.seeds_needed(margin) if answer == "cannot tell" and not diverged else None
    losses = tuple(row.test_loss for row in runs if row.test_loss is not None)
    return Verdict(name, answer, pairs, losses, params, diverged, needed, margin)


def _documents(pairs: Sequence[tuple[ResultRow, ResultRow]]) -> tuple[tuple[float, int], ...]:
    """Return each document's difference, a mean over pairs, and its tokens; nothing if a run does not know its own."""
    known = [(mine.test_documents, other.test_documents) for mine, other in pairs]
    tokens = {tuple(count for _, count in documents or ()) for pair in known for documents in pair}
    if len(tokens) != 1:
        return ()
    sums = [0.0] * len(counts := tokens.pop())
    for mine, other in known:
        for place, (own, theirs) in enumerate(zip(mine or (), other or (), strict=True)):
            sums[place] += (own[0] - theirs[0]) / len(known)
    return tuple(zip(sums, counts, strict=True))


def _label(row: ResultRow) -> str:
    own = row.config.get(row.strategy) or {}
    if "of" in own:
        return f"{row.strategy} {own['of']}"
    share = own.get("budget_share", 1.0)
    return row.strategy if share == 1 else f"{row.strategy} at {share:.2g} of the budget"
