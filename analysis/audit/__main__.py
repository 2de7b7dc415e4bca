"""Audit a PEFT adapter from its files: ``python -m analysis.audit FOLDER [--plan FILE]``.

It says which ranks, scales and targets the adapter has, how much of its rank it uses, how servers read it, and what is
wrong with it. With --plan it says where that differs from what was meant. The exit status is 0 if nothing was found, 1
if something was, and 2 if the folder cannot be read.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from analysis.audit import plan as plans
from analysis.audit.audit import audited
from analysis.audit.servers import SERVERS
from analysis.results.messages import run_command


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--plan", type=click.Path(path_type=Path), help="What was meant: a run folder, or a JSON file of site to rank."
)
@click.option("--server", type=click.Choice(list(SERVERS)), help="What it is for; to be read otherwise is a finding.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def audit(folder: Path, plan: Path | None, server: str | None, as_json: bool) -> int:  # noqa: D103  (see the module)
    result = audited(folder, None if plan is None else plans.read(plan), server)
    click.echo(json.dumps(result.content(), indent=1, allow_nan=False) if as_json else "\n".join(result.lines()))
    return result.exit_status


def main(arguments: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run the command; wrong usage is one line and exit status 2."""
    return run_command(audit, arguments, name or "audit")


if __name__ == "__main__":
    sys.exit(main())
