"""Training speed of one process on the bundled base, alone and packed: ``python -m benchmarks.steady``."""

import time

import click
import torch

from strategies import RankBudget
from trainables.base_model import load
from trainables.data import DataSource
from trainables.pack import Pack
from trainables.session import SoloSession
from trainables.spec import TrialSpec, Workload


@click.command(help=__doc__)
@click.option("--slots", default=4, show_default=True, help="Trials in the pack.")
@click.option("--micro-batch", default=8, show_default=True, help="Rows of a trial in one pass.")
@click.option("--threads", default=1, show_default=True)
@click.option("--steps", default=12, show_default=True, help="Optimizer steps timed, over all trials.")
def main(slots: int, micro_batch: int, threads: int, steps: int) -> None:
    torch.set_num_threads(threads)
    budget = RankBudget.like_uniform(2, load("bundled").sites)
    workload = Workload("bundled", DataSource(), budget, epochs=3, batch_size=8, reports=1, scale=2.0, threads=threads)
    specs = [TrialSpec.from_config({"strategy": "baseline", "learning_rate": 0.01, "seed": n}) for n in range(slots)]
    solo = SoloSession(workload, specs[0])
    print(f"alone: {_speed(solo._step, [solo.learner], steps):,.0f} tokens/s")
    solo.close()
    pack = Pack("bundled", workload.data, "cpu", micro_batch)
    admitted = [pack.admit(workload, spec) for spec in specs]
    passes = -(-steps // slots) * workload.batch_size // micro_batch
    speed = _speed(lambda: pack.step(admitted), [slot.learner for slot in admitted], passes)
    print(f"{slots} packed: {speed:,.0f} tokens/s")


def _speed(step, learners, times: int) -> float:
    step()
    began, tokens = time.perf_counter(), sum(learner.tokens for learner in learners)
    for _ in range(times):
        step()
    return (sum(learner.tokens for learner in learners) - tokens) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
