"""What joining rows gives on the completions of E2E: ``python -m benchmarks.padding``."""

from dataclasses import replace

import click
import torch

from analysis.results.trial_config import TrialConfig
from benchmarks import workloads
from benchmarks.pairs import Ratio, interleaved
from benchmarks.passes import train
from strategies import RankBudget
from trainables.engine.pack import Pack
from trainables.models.base_model import shape_of
from trainables.spec import TrialSpec, Workload
from trainables.training.inputs import base_of, splits_of

ROWS = 8


@click.command(help=__doc__)
@click.option("--model", type=click.Choice(["bundled", "gpt2-medium"]), default="bundled", show_default=True)
@click.option(
    "--trials", default=4, show_default=True, type=click.IntRange(1), help="Trials in a pass, 8 rows of each."
)
@click.option("--steps", default=4, show_default=True, type=click.IntRange(1), help="Optimizer steps timed at once.")
@click.option("--pairs", default=5, show_default=True, type=click.IntRange(1))
def main(model: str, trials: int, steps: int, pairs: int) -> None:
    """Print how many times faster the same steps are than with padding, on one thread."""
    torch.set_num_threads(1)
    workload = replace(_bundled() if model == "bundled" else workloads.gpt2_medium(8), epochs=10_000)
    configs = [TrialConfig("baseline", learning_rate=0.002, seed=seed) for seed in range(trials)]
    packs = []
    for join in (False, True):
        base = base_of(workload)
        pack = Pack(base if join else replace(base, joining=None), splits_of(workload), ROWS)
        packs.append((pack, [pack.admit(workload, TrialSpec.from_config(config)) for config in configs]))
    padded, joined = packs
    train(*padded, 1), train(*joined, 1)
    seconds = interleaved(lambda: train(*padded, steps), lambda: train(*joined, steps), pairs)
    print(Ratio("padding", workload.device, tuple(padded_s / joined_s for padded_s, joined_s in seconds), 1).line())


def _bundled() -> Workload:
    source = workloads.e2e(200)
    budget = RankBudget.like_uniform(2, shape_of("bundled").sites)
    return Workload("bundled", source, budget, epochs=1, batch_size=ROWS, reports=1, scale=2.0)


if __name__ == "__main__":
    main()
