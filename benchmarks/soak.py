"""A thousand short trials in one search: is its driver as small, and a trial as quick, at the end as at the beginning?

python -m benchmarks.soak [--trials 1000]
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import psutil

ROOT = Path(__file__).parents[1]
LIMITS = {"memory": 1.10, "seconds a trial": 1.20, "open files": 1.05}
SHORT = (
    "--train-examples", "16", "--validation-examples", "16", "--test-examples", "16", "--max-length", "64",
    "--epochs", "2", "--reports", "2", "--confirm-seeds", "0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """The driver at one time: trials ended, resident bytes, open files, seconds since the start."""

    ended: int
    rss: int
    files: int
    seconds: float


def watched(trials: int, folder: Path) -> list[Sample]:
    """Run a search and sample its driver at every fiftieth of it."""
    command = [
        sys.executable,
        "tune.py",
        *SHORT,
        "--num-samples",
        str(trials),
        "--runs-dir",
        str(folder),
        "--name",
        "s",
    ]
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    rows, started = folder / "s" / "rows.jsonl", time.monotonic()
    samples: list[Sample] = []
    while process.poll() is None:
        time.sleep(0.2)
        ended = rows.read_bytes().count(b"\n") if rows.exists() else 0
        if ended >= (len(samples) + 1) * trials / 50:
            sample = Sample(ended, process.memory_info().rss, process.num_fds(), time.monotonic() - started)
            click.echo(
                f"{sample.ended:5} ended  {sample.rss / 1e6:6.0f} MB  {sample.files:3} files  {sample.seconds:6.0f} s"
            )
            samples.append(sample)
    if process.returncode:
        raise click.ClickException(f"the search ended with status {process.returncode}")
    return samples


def growth(samples: list[Sample], trials: int) -> dict[str, float]:
    """Return memory at the end over that after a fifth, and pace and open files of the last fifth over the second."""

    def fifth(number: int) -> list[Sample]:
        return [sample for sample in samples if number - 1 < 5 * sample.ended / trials <= number]

    def pace(part: list[Sample]) -> float:
        return (part[-1].seconds - part[0].seconds) / (part[-1].ended - part[0].ended)

    early, late = fifth(2), fifth(5)
    return {
        "memory": late[-1].rss / early[0].rss,
        "seconds a trial": pace(late) / pace(early),
        "open files": median(sample.files for sample in late) / median(sample.files for sample in early),
    }


@click.command(help=__doc__)
@click.option("--trials", default=1000, show_default=True)
def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ratios = growth(watched(trials, Path(folder)), trials)
    for name, ratio in ratios.items():
        click.echo(f"{name:16} {ratio:.2f}  (at most {LIMITS[name]:.2f}){'' if ratio <= LIMITS[name] else '  MISSED'}")
    sys.exit(any(ratio > LIMITS[name] for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
