"""What rank-8 LoRA gains on the bundled base, over several splits of the data: ``python -m benchmarks.base_gain``."""

import math
from dataclasses import replace

import click
import torch

from strategies import RankBudget
from strategies.baseline import Baseline
from trainables.data.splits import DataSource, mean_loss
from trainables.engine.batcher import BatchedExecutor
from trainables.engine.pack import Pack
from trainables.models.base_model import load
from trainables.spec import TrialSpec, Workload


@click.command(help=__doc__)
@click.option("--splits", default=4, show_default=True, help="Number of splits.")
@click.option("--rank", default=8, show_default=True)
@click.option("--learning-rate", default=0.01, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(splits: int, rank: int, learning_rate: float, threads: int) -> None:
    torch.set_num_threads(threads)
    budget = RankBudget.like_uniform(rank, load("bundled").sites)
    workload = Workload("bundled", DataSource(), budget, epochs=3, batch_size=8, reports=1, scale=2.0)
    spec = TrialSpec("baseline", Baseline(), learning_rate)
    for split in range(splits):
        split_workload = replace(workload, data=DataSource(split_seed=split))
        session = BatchedExecutor(Pack.of(split_workload, workload.batch_size)).admit(split_workload, spec)
        loss_before = mean_loss(session.splits.test, session.test_losses())
        session.train(workload.steps)
        loss_after = mean_loss(session.splits.test, session.test_losses())
        session.close()
        print(f"split {split}: test perplexity {math.exp(loss_before):.1f} -> {math.exp(loss_after):.1f}, "
              f"{math.exp(loss_after - loss_before) - 1:+.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
