"""Simulated searches that look at 5, 10, 20 and 40 seeds: how often they err, what they see, and what that takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.results.trial_config import LOOKS
from analysis.stats.looks import error_at
from analysis.stats.outlook import Outlook, outlook
from analysis.stats.statistics import Answer, Paired, judge

MARGIN = 0.01  # in nats per token, as everything here
# standard deviations by run, by strategy and text, and by run and text
RUN_SD, TEXT_SD, RUN_TEXT_SD = 0.004, 0.02, 0.01
HEADERS = (
    "effect",
    "texts",
    "covers",
    "win",
    "tie",
    "loss",
    "cannot tell",
    "lacks texts",
    "any win",
    "seeds",
    "of plain",
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A strategy at the look at which its seeds end.

    Args:
        answer: On it.
        seeds: How many it took.
        interval: Of its difference to plain LoRA.
        ahead: What more seeds would do if nobody can tell.
    """

    answer: Answer
    seeds: int
    interval: tuple[float, float] | None
    ahead: Outlook | None


def looked_at(
    effect: float,
    tokens: Sequence[int],
    strategies: int,
    searches: int,
    share: Callable[[int, Sequence[int]], float] = error_at,
) -> Iterator[list[Ended]]:
    """Yield searches in which every strategy has the same effect, each as its strategies ended.

    Losses are as in ``benchmarks.power``.

    Args:
        effect: Expected test loss of every strategy minus that of plain LoRA.
        tokens: Learned tokens of each text; without any, runs differ and texts do not.
        strategies: Number of strategies compared with plain LoRA.
        searches: Number of searches to simulate.
        share: As ``error_at``: what a look may err.
    """
    rng = np.random.default_rng([len(tokens), strategies, round(-1e6 * effect)])
    arms, texts = strategies + 1, max(1, len(tokens))
    for _ in range(searches):
        losses = rng.normal(0, RUN_SD, (arms, LOOKS[-1], 1)) + np.zeros(texts)
        if tokens:
            losses += rng.normal(0, TEXT_SD, (arms, 1, texts)) + rng.normal(0, RUN_TEXT_SD, losses.shape)
        losses[1:] += effect
        yield [_ended(arm - losses[0], tuple(tokens), strategies, share) for arm in losses[1:]]


def _ended(
    differences: np.ndarray, tokens: tuple[int, ...], strategies: int, share: Callable[[int, Sequence[int]], float]
) -> Ended:
    """Return how a strategy ends of which the differences by seed and text are given."""
    weights = np.array(tokens or (1,), dtype=float)
    means, sums = differences @ weights / weights.sum(), differences * weights
    for look in LOOKS:
        by_document = tuple(map(tuple, sums[:look].tolist())) if tokens else ()
        pairs = Paired(tuple(means[:look].tolist()), strategies, tokens, by_document, share(look, LOOKS))
        answer = judge(pairs, MARGIN)
        ahead = outlook(pairs, MARGIN, False, LOOKS) if answer == "cannot tell" else None
        if ahead != Outlook.OPEN:
            break
    return Ended(answer, look, pairs.interval, ahead)


def rows(
    effects: dict[str, float], all_texts: Sequence[Sequence[int]], strategies: int, searches: int
) -> Iterator[str]:
    """Yield a table: by effect and texts the share of each answer, of intervals that hold, and the mean of seeds."""
    yield f"| {' | '.join(HEADERS)} |"
    yield "| --- " * len(HEADERS) + "|"
    for name, effect in effects.items():
        for tokens in all_texts:
            ended = list(looked_at(effect, tokens, strategies, searches))
            yield f"| {name} ({effect:g}) | {len(tokens)} | {' | '.join(_cells(ended, effect))} |"


def _cells(searches: Sequence[Sequence[Ended]], effect: float) -> list[str]:
    every = [item for search in searches for item in search]
    holds = [item.interval is not None and item.interval[0] <= effect <= item.interval[1] for item in every]
    answers = [[item.answer == answer for item in every] for answer in ("win", "tie", "loss", "cannot tell")]
    lacking = [item.ahead == Outlook.DOCUMENTS for item in every]
    any_win = [any(item.answer == "win" for item in search) for search in searches]
    plain = [max(item.seeds for item in search) for search in searches]
    shares = [f"{np.mean(of):.1%}" for of in (holds, *answers, lacking, any_win)]
    return [*shares, f"{np.mean([item.seeds for item in every]):.1f}", f"{np.mean(plain):.1f}"]
