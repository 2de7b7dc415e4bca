"""Ours against its peers, side by side: median ratios of interleaved pairs."""

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import click
import torch

from benchmarks import passes, smoke, sweeps
from benchmarks.pairs import Ratio
from tuning.cluster.connection import ray_for
from tuning.plan.search_plan import SearchPlan

RATIOS: dict[str, Callable[[int, str], Ratio]] = {
    "sweep_vs_p0": sweeps.sweep_vs_p0,
    "sweep_vs_p1": sweeps.sweep_vs_p1,
    "steady_vs_p1": passes.steady,
    "fixed_cost_vs_p0": sweeps.fixed_cost_vs_p0,
    "floor": passes.floor,
    "memory": sweeps.memory,
    "prefix": passes.prefix,
    "scaling": sweeps.scaling,
}


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(RATIOS)), help="Which ratio; may be repeated.")
@click.option("--pairs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="File for the results.")
@click.option("--workload", type=click.Choice(["standard", "gpt2-medium"]), default="standard", show_default=True,
              help="`standard`: bundled base on CPU, GPT-2 Medium on GPU; `gpt2-medium`: on CPU, 3 steps.")  # fmt: skip
def main(only: tuple[str, ...], pairs: int, output: Path | None, workload: str) -> None:
    """Measure the ratios; after each, print it and write all so far."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if workload == "gpt2-medium" and device == "cpu":
        print(smoke.gpt2_medium())
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, {device}, PyTorch {torch.__version__}, {pairs} pairs")
    ratios: list[Ratio] = []
    with ray_for(SearchPlan(gpus_per_trial=1.0 if device == "cuda" else 0.0)):
        for name in only or RATIOS:
            ratios.append(RATIOS[name](pairs, device))
            print(ratios[-1].line(), flush=True)
            if output is not None:
                output.write_text(json.dumps([ratio.row() for ratio in ratios], indent=1) + "\n")


if __name__ == "__main__":
    main()
