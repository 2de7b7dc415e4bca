"""Rebuild a report from files: ``python -m analysis RUN_DIR`` or ``python -m analysis --rows FILE --output FILE``."""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import click

from analysis.report import ReportHeader, render
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
    facts: dict[str, Any] = {}
    if run_dir is not None:
        facts = _read_facts(run_dir / "facts.json")
        plan = _read_plan(run_dir / "plan.json")
        rows, output = run_dir / "rows.jsonl", output or run_dir / "report.md"
        dataset_size, epochs = dataset_size or plan.get("train_examples"), epochs or plan.get("epochs")
    if rows is None or output is None:
        raise ValueError("--output: say where the report goes")
    header = ReportHeader(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}", dataset_size, epochs, **facts)
    text = render(read_rows(rows), header)
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: its folder does not exist")
    output.write_text(text, encoding="utf-8")
    click.echo(str(output))


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no plan that can be read; RUN_DIR must be the folder of a run ({error})") from error
    return {key: plan[key] for key in ("train_examples", "epochs") if plan.get(key) is not None}


def _read_facts(path: Path) -> dict[str, Any]:
    """Return what the header takes from a run's facts; nothing if they are not there."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: facts[key] for key in ("engine", "resource_events") if key in facts}


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
