"""What the verdict can see: simulated searches whose truth is known: ``python -m benchmarks.power``."""

import math

import click
import numpy as np

from analysis.statistics import Paired, judge

EFFECTS = {"none": 0.0, "small": -0.5, "large": -3.0}
MARGIN = 1.0  # all in units of the spread of a paired difference


@click.command(help=__doc__)
@click.option("--searches", default=2000, show_default=True)
@click.option("--strategies", default=3, show_default=True, help="Strategies that are compared with plain LoRA.")
def main(searches: int, strategies: int) -> None:
    """Print, by effect (in spreads of a paired difference) and seeds, how often what is said."""
    print("| effect | seeds | t covers | bootstrap covers | win | tie | loss | cannot tell | any win |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, effect in EFFECTS.items():
        for seeds in (3, 5, 10):
            cells = _simulate(np.random.default_rng([seeds]), effect, seeds, searches, strategies)
            print(f"| {name} ({effect:g}) | {seeds} | {' | '.join(f'{cell:.1%}' for cell in cells)} |", flush=True)


def _simulate(rng: np.random.Generator, effect: float, seeds: int, searches: int, strategies: int) -> tuple[float, ...]:
    """Simulate searches in which every strategy has the effect; seeds shift all runs alike, as real ones do."""
    plain = rng.normal(0, 5, (searches, 1, seeds))
    losses = plain + rng.normal(effect, 1, (searches, strategies, seeds))
    alone = [Paired(tuple(row)) for row in (losses - plain)[:, 0]]
    together = [[Paired(tuple(row), strategies) for row in search] for search in losses - plain]
    answers = [[judge(pairs, MARGIN, 1, 1) for pairs in search] for search in together]
    first = [search[0] for search in answers]
    shares = [first.count(answer) / searches for answer in ("win", "tie", "loss", "cannot tell")]
    covered = [low <= effect <= high for low, high in (pairs.interval or (math.nan, math.nan) for pairs in alone)]
    resampled = [
        low <= effect <= high for low, high in (pairs.bootstrap() or (math.nan, math.nan) for pairs in alone[:500])
    ]
    any_win = sum("win" in search for search in answers) / searches
    return float(np.mean(covered)), float(np.mean(resampled)), *shares, any_win


if __name__ == "__main__":
    main()
