"""Rebuild a report from files: ``python -m analysis RUN_DIR`` or ``python -m analysis --rows FILE --output FILE``."""

import datetime
import sys
from dataclasses import replace
from pathlib import Path

import click

from analysis.header import ReportHeader
from analysis.publish import publish
from analysis.rows import read_rows


@click.command(help=__doc__)
@click.argument("run_dir", required=False, type=click.Path(path_type=Path))
@click.option("--rows", type=click.Path(path_type=Path), help="A .jsonl or .csv of rows.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes.")
@click.option("--dataset-size", type=int, help="Training examples, for the overview.")
@click.option("--epochs", type=float, help="Epochs, for the overview.")
def rebuild(  # noqa: D103  (its help is the docstring of the module)
    run_dir: Path | None, rows: Path | None, output: Path | None, dataset_size: int | None, epochs: float | None
) -> None:
    if (run_dir is None) == (rows is None):
        raise ValueError("give either RUN_DIR or --rows FILE")
    now = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
    header = ReportHeader(now) if run_dir is None else ReportHeader.of_run(run_dir, now)
    if run_dir is not None:
        rows, output = run_dir / "rows.jsonl", output or run_dir / "report.md"
    if rows is None or output is None:
        raise ValueError("--output: say where the report goes")
    if output.suffix != ".md":
        raise ValueError(f"--output {output}: a report is a .md file, and a page beside it")
    given = {"dataset_size": dataset_size, "epochs": epochs}
    header = replace(header, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    found = read_rows(rows)
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: its folder does not exist")
    publish(found, header, output)
    click.echo(str(output))


def main() -> int:
    """Run the command; wrong usage is one line and exit status 2."""
    try:
        rebuild.main(standalone_mode=False)
    except (click.ClickException, ValueError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"Error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
