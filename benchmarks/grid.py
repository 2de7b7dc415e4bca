"""When to pack: speed of K trials together, by tokens of a trial in one pass: ``python -m benchmarks.grid``."""

import time
from dataclasses import replace

import click
import torch

from benchmarks import workloads
from trainables.engine.pack import Pack
from trainables.spec import TrialSpec, Workload

LENGTH = 128


@click.command(help=__doc__)
@click.option("--tokens", default="256,1024,4096", show_default=True, help="Tokens of a trial in one pass.")
@click.option("--slots", default="1,2,4,8", show_default=True, help="Trials in the pack.")
@click.option("--threads", default=1, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Time spent on each cell, at least.")
def main(tokens: str, slots: str, threads: int, seconds: float) -> None:
    """Print learned tokens a second as a Markdown table; "out of memory" where there is too little."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counts = [int(count) for count in slots.split(",")]
    print(f"| tokens | {' | '.join(f'K = {count}' for count in counts)} |")
    print("| --- " * (len(counts) + 1) + "|")
    for size in (int(size) for size in tokens.split(",")):
        batch = max(1, size // LENGTH)
        workload = replace(workloads.standard(device, 32), batch_size=batch, epochs=10_000)
        print(f"| {batch * LENGTH} | {' | '.join(_cell(workload, count, seconds) for count in counts)} |", flush=True)


def _cell(workload: Workload, count: int, seconds: float) -> str:
    pack = Pack.of(workload, workload.batch_size)
    try:
        slots = [pack.admit(workload, TrialSpec.from_config(config)) for config in workloads.configs(count)]
        pack.step(slots)
        tokens_before, started = sum(slot.learner.tokens for slot in slots), time.perf_counter()
        while time.perf_counter() - started < seconds:
            pack.step(slots)
        speed = (sum(slot.learner.tokens for slot in slots) - tokens_before) / (time.perf_counter() - started)
    except torch.OutOfMemoryError:
        return "out of memory"
    return f"{speed:,.0f}"


if __name__ == "__main__":
    main()
