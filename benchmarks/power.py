"""What the verdict can see: simulated searches whose truth is known: ``python -m benchmarks.power``."""

from collections.abc import Iterator, Sequence

import click
import numpy as np

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase
from analysis.stats.verdicts import PLAIN, Verdict, verdicts

EFFECTS = {"none": 0.0, "small": -0.01, "large": -0.05}
MARGIN = 0.01  # in nats per token, as everything here
RUN, TEXT, BOTH = 0.004, 0.02, 0.01  # standard deviation by run, by strategy and text, and by run and text
ALIKE = (100,) * 100
FEW_LONG = (2000,) * 4 + (100,) * 60
UNLIKE = tuple(100 * windows for windows in (39, 12, 9, 8, 7, 6, 5, 4, 3, 2, 2, 1, 1, 1))  # as the bundled test split


@click.command(help=__doc__)
@click.option("--searches", default=1000, show_default=True)
@click.option("--strategies", default=3, show_default=True, help="Strategies that are compared with plain LoRA.")
def main(searches: int, strategies: int) -> None:
    """Print, by effect, texts and seeds, how often what is said, and how often it is true."""
    print("| effect | texts | seeds | covers | over seeds alone | win | tie | loss | cannot tell | any win |")
    print("| --- " * 10 + "|")
    for name, effect in EFFECTS.items():
        for texts in (ALIKE, FEW_LONG, UNLIKE):
            for seeds in (3, 5, 10):
                found = list(simulated(effect, seeds, texts, strategies, searches))
                cells = " | ".join(f"{cell:.1%}" for cell in _shares(found, effect))
                print(f"| {name} ({effect:g}) | {len(texts)} | {seeds} | {cells} |", flush=True)


def simulated(
    effect: float,
    seeds: int,
    tokens: Sequence[int],
    strategies: int,
    searches: int,
    run: float = RUN,
    both: float = BOTH,
) -> Iterator[list[Verdict]]:
    """Yield what is said of searches in which every strategy has the same effect.

    A run's loss on a text is the text's own, which all runs share, the strategy's effect, and three things by chance:
    of the run, of the strategy on this text, and of this run on this text.

    Args:
        effect: Test loss of every strategy minus that of plain LoRA, were there endless seeds and texts.
        seeds: Confirmation runs of each.
        tokens: Learned tokens of each text.
        strategies: Compared with plain LoRA.
        searches: To simulate.
        run: Standard deviation by run.
        both: That by run and text.
    """
    rng = np.random.default_rng([seeds, len(tokens), strategies])
    arms, texts, weights = strategies + 1, len(tokens), np.array(tokens)
    names = [PLAIN, *(f"strategy{number}" for number in range(strategies))]
    for _ in range(searches):
        losses = 4 + rng.normal(0, 1, texts) + rng.normal(0, run, (arms, seeds, 1))
        losses = losses + rng.normal(0, TEXT, (arms, 1, texts)) + rng.normal(0, both, (arms, seeds, texts))
        losses[1:] += effect
        rows = [
            ResultRow(
                f"{name}{seed}", name, name, "finished", phase=Phase.CONFIRM, seed=seed, trainable_parameters=1000,
                test_loss=float(own @ weights / weights.sum()),
                test_documents=list(zip((own * weights).tolist(), tokens, strict=True)),
            ) for name, runs in zip(names, losses, strict=True) for seed, own in enumerate(runs)
        ]  # fmt: skip
        yield verdicts(rows, MARGIN)


def covers(interval: tuple[float, float] | None, effect: float) -> bool:
    """Return True if an interval has the truth in it."""
    return interval is not None and interval[0] <= effect <= interval[1]


def _shares(found: Sequence[Sequence[Verdict]], effect: float) -> list[float]:
    every = [item for search in found for item in search]
    answers = [item.answer for item in every]
    told = [answers.count(answer) / len(answers) for answer in ("win", "tie", "loss", "cannot tell")]
    any_win = sum(any(item.answer == "win" for item in search) for search in found) / len(found)
    return [
        float(np.mean([covers(item.pairs.interval, effect) for item in every])),
        float(np.mean([covers(item.pairs.bootstrap(), effect) for item in every[:300]])),
        *told,
        any_win,
    ]


if __name__ == "__main__":
    main()
