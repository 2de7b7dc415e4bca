"""A report from files: of one run, of several compared, or of any rows.

python -m analysis RUN_DIR [RUN_DIR ...] [--output FILE], or python -m analysis --rows FILE --output FILE

With --verdict it writes nothing and prints the verdict of a run as JSON; its exit status is 0 for an adaptive
allocation, 10 for plain LoRA, 11 for undecided.
"""

import datetime
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from analysis.report import verdict_file
from analysis.report.compare import Search
from analysis.report.publish import publish, publish_comparison, publish_rows, report_beside
from analysis.results.confinement import check_folder
from analysis.results.messages import run_command
from analysis.results.rows import ResultRow, read_rows, surviving_rows
from analysis.results.run_info import FIGURES, RunInfo
from analysis.stats.assessment import assess
from analysis.stats.recommendation import recommend


@click.command(help=__doc__)
@click.argument("run_dirs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--rows", type=click.Path(path_type=Path), help="A .jsonl or .csv of rows.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes.")
@click.option(
    "--dataset-size", "train_examples", type=click.IntRange(min=1), help="Training examples, for the overview."
)
@click.option("--epochs", type=float, help="Epochs, for the overview.")
@click.option("--verdict", is_flag=True, help="Print the verdict of RUN_DIR as JSON, and have it as the exit status.")
def rebuild(  # noqa: D103  (its help is the docstring of the module)
    run_dirs: tuple[Path, ...], rows: Path | None, output: Path | None, verdict: bool, **overview: Any
) -> int:
    if verdict:
        return _print_verdict(run_dirs, rows or output)
    if bool(run_dirs) == (rows is not None):
        raise ValueError("give either RUN_DIR or --rows FILE")
    if len(run_dirs) == 1:
        output = output or run_dirs[0] / "report.md"
    if output is None:
        raise ValueError("--output: say where the report goes")
    if output.suffix != ".md":
        raise ValueError(f"--output {output}: a report is a .md file, and a page beside it")
    if output.is_dir():
        raise ValueError(f"--output {output}: a folder; give the name of a file")
    if (epochs := overview["epochs"]) is not None and not 0 < epochs < math.inf:
        raise ValueError(f"--epochs {epochs:g}: must be above 0 and finite")
    generated = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
    searches = [_read(folder, generated) for folder in run_dirs]
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: its folder does not exist")
    if len(run_dirs) > 1:
        publish_comparison(searches, generated, output)
    else:
        if (other := report_beside(output)) is not None:
            raise ValueError(
                f"--output {output}: {other.name} beside it is a report, too, whose {FIGURES} and {verdict_file.NAME} "
                f"it would replace; give a folder of its own"
            )
        search = searches[0] if rows is None else _search("", RunInfo(generated), read_rows(rows))
        given = {name: value for name, value in overview.items() if value is not None}
        (publish if rows is None else publish_rows)(search.assessment, replace(search.info, **given), output)
    click.echo(str(output))
    return 0


def _print_verdict(run_dirs: Sequence[Path], other: Path | None) -> int:
    if len(run_dirs) != 1 or other is not None:
        raise ValueError("--verdict: give one RUN_DIR, and neither --rows nor --output")
    search = _read(run_dirs[0], "")
    click.echo(verdict_file.text(search.assessment, search.info))
    return verdict_file.EXIT_STATUSES[recommend(search.assessment).choice]


def _read(run_dir: Path, generated: str) -> Search:
    """Read what there is of a run; print a warning that names damaged lines, and leave them out.

    Raises:
        ValueError: Something in its folder leads out of it, or cannot be read.
    """
    check_folder(run_dir, but=("ray",))  # of which nothing is read or written
    info, path = RunInfo.of_run(run_dir, generated), run_dir / "rows.jsonl"
    rows, damage = surviving_rows(path)
    if damage:
        damaged_lines = "; ".join(f"line {number}: {reason}" for number, reason in damage)
        click.echo(f"Warning: {path}: {damaged_lines}; the report is without them", err=True)
    return _search(run_dir.resolve().name, info, rows)


def _search(name: str, info: RunInfo, rows: Sequence[ResultRow]) -> Search:
    return Search(name, info, assess(rows, info.margin, info.containing_plain))


def main(arguments: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run the command; wrong usage is one line and exit status 2."""
    return run_command(rebuild, arguments, name)


if __name__ == "__main__":
    sys.exit(main())
