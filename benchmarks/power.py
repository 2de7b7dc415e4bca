"""What the verdict can see: simulated searches whose truth is known: ``python -m benchmarks.power``."""

from collections.abc import Iterator, Sequence

import click
import numpy as np

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status
from analysis.stats.verdicts import PLAIN, Verdict, confirmed_runs, verdicts
from benchmarks.looks import MARGIN, RUN_SD, RUN_TEXT_SD, TEXT_SD, rows

EFFECTS = {"none": 0.0, "small": -0.01, "large": -0.05}
ALIKE = (100,) * 100
FEW_LONG = (2000,) * 4 + (100,) * 60
UNLIKE = tuple(100 * windows for windows in (39, 12, 9, 8, 7, 6, 5, 4, 3, 2, 2, 1, 1, 1))  # as the bundled test split


@click.command(help=__doc__)
@click.option("--searches", default=1000, show_default=True)
@click.option("--strategies", default=3, show_default=True, help="Strategies that are compared with plain LoRA.")
@click.option("--looks", is_flag=True, help="Of searches that look at 5, 10, 20 and 40 seeds (--confirm-seeds auto).")
def main(searches: int, strategies: int, looks: bool) -> None:
    """Print, by effect, texts and seeds, how often each answer is given and how often intervals cover the effect."""
    if looks:
        for line in rows(EFFECTS, ((), ALIKE, FEW_LONG, UNLIKE), strategies, searches):
            print(line, flush=True)
        return
    print("| effect | texts | seeds | covers | over seeds alone | win | tie | loss | cannot tell | any win |")
    print("| --- " * 10 + "|")
    for name, effect in EFFECTS.items():
        for texts in (ALIKE, FEW_LONG, UNLIKE):
            for seeds in (3, 5, 10):
                judged_searches = list(simulated(effect, seeds, texts, strategies, searches))
                cells = " | ".join(f"{cell:.1%}" for cell in _shares(judged_searches, effect))
                print(f"| {name} ({effect:g}) | {len(texts)} | {seeds} | {cells} |", flush=True)


def simulated(
    effect: float,
    seeds: int,
    tokens: Sequence[int],
    strategies: int,
    searches: int,
    run_sd: float = RUN_SD,
    run_text_sd: float = RUN_TEXT_SD,
) -> Iterator[list[Verdict]]:
    """Yield the verdicts on searches in which every strategy has the same effect.

    A run's loss on a text is the sum of the text's loss, which all runs share, the strategy's effect, and three random
    terms: of the run, of the strategy on this text, and of this run on this text.

    Args:
        effect: Expected test loss of every strategy minus that of plain LoRA.
        seeds: Number of confirmation runs of each.
        tokens: Learned tokens of each text.
        strategies: Number of strategies compared with plain LoRA.
        searches: Number of searches to simulate.
        run_sd: Standard deviation by run.
        run_text_sd: Standard deviation by run and text.
    """
    rng = np.random.default_rng([seeds, len(tokens), strategies])
    arms, texts, weights = strategies + 1, len(tokens), np.array(tokens)
    names = [PLAIN, *(f"strategy{number}" for number in range(strategies))]
    for _ in range(searches):
        losses = 4 + rng.normal(0, 1, texts) + rng.normal(0, run_sd, (arms, seeds, 1))
        losses = losses + rng.normal(0, TEXT_SD, (arms, 1, texts)) + rng.normal(0, run_text_sd, (arms, seeds, texts))
        losses[1:] += effect
        runs = [
            ResultRow(
                f"{name}{seed}", name, name, Status.FINISHED, phase=Phase.CONFIRM, seed=seed, trainable_parameters=1000,
                test_loss=float(text_losses @ weights / weights.sum()),
                test_documents=list(zip((text_losses * weights).tolist(), tokens, strict=True)),
            ) for name, of_seeds in zip(names, losses, strict=True) for seed, text_losses in enumerate(of_seeds)
        ]  # fmt: skip
        yield verdicts(confirmed_runs(runs), MARGIN)


def covers(interval: tuple[float, float] | None, effect: float) -> bool:
    """Return True if an interval covers the effect."""
    return interval is not None and interval[0] <= effect <= interval[1]


def _shares(judged_searches: Sequence[Sequence[Verdict]], effect: float) -> list[float]:
    all_verdicts = [verdict for search in judged_searches for verdict in search]
    answers = [verdict.answer for verdict in all_verdicts]
    answer_shares = [answers.count(answer) / len(answers) for answer in ("win", "tie", "loss", "cannot tell")]
    any_win = sum(any(verdict.answer == "win" for verdict in search) for search in judged_searches) / len(
        judged_searches
    )
    return [
        float(np.mean([covers(verdict.pairs.interval, effect) for verdict in all_verdicts])),
        float(np.mean([covers(verdict.pairs.bootstrap(), effect) for verdict in all_verdicts[:300]])),
        *answer_shares,
        any_win,
    ]


if __name__ == "__main__":
    main()
