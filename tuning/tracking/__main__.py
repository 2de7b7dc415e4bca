"""``python -m tuning.tracking replay RUN_DIR``: carry what MLflow missed."""

import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from filelock import Timeout

from analysis.results.messages import masked, run_command
from tuning.plan.choices import MLFLOW_URI
from tuning.tracking import addresses
from tuning.tracking.events import replay
from tuning.tracking.outbox import OUTBOX, Target, path_in
from tuning.tracking.uploader import Unreachable, brief


@click.group()
def main() -> None:
    """Carry what MLflow missed."""


@main.command("replay")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--to", "to", metavar="URI", help="MLflow's address, where that of RUN_DIR is none of this machine's.")
def replay_command(run_dir: Path, to: str | None) -> None:
    """Send the events of the outbox of RUN_DIR that MLflow does not have yet.

    They go where its files say, if that is the SQLite of its runs folder or MLFLOW_TRACKING_URI; else give --to.
    """
    if not path_in(run_dir).is_file():
        raise click.UsageError(f"{run_dir}: no {OUTBOX} in it; give the folder of a run")
    try:
        carried, refused = replay(run_dir, functools.partial(_place, run_dir, to))
    except Timeout as error:
        message = f"{run_dir}: a search or another replay is carrying these events; wait for its end"
        raise click.UsageError(message) from error
    except ValueError as error:  # of the folder, or of where its events shall go
        raise click.UsageError(str(error)) from error
    except Unreachable as error:
        message = f"MLflow cannot be reached ({brief(error)}); nothing is lost, replay again once it is back"
        raise click.ClickException(message) from error
    except OSError as error:
        message = (
            f"{error.filename or path_in(run_dir)}: {error.strerror}; nothing is lost, replay again once it is mended"
        )
        raise click.ClickException(message) from error
    click.echo(f"{carried} events carried" + (f", {refused} refused" if refused else ""))


def _place(run_dir: Path, to: str | None, said: Target) -> Target:
    """Return where events go, and say it.

    Args:
        run_dir: Where they lie.
        to: What was asked for.
        said: What the folder says, which somebody else may have made.

    Raises:
        ValueError: That is no place of this machine's, and none was asked for.
    """
    here = addresses.places_of(run_dir)
    if to is None and (said.uri, said.artifacts) not in here:
        raise ValueError(
            f"{run_dir}: its events are for {masked(said.uri)}, and this machine's searches log to "
            f"{masked(here[0][0])}; give --to URI, the one or the other"
        )
    if to is not None and not re.match(MLFLOW_URI, to):
        raise ValueError(f"--to {to}: must be as http://HOST:5000, https://..., sqlite:///... or databricks")
    uri = to or said.uri
    click.echo(f"Sending to {masked(uri)}")
    return replace(said, uri=uri, artifacts=dict(here).get(uri, None) if to else said.artifacts)


def replay_run(arguments: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run the command ``replay`` by itself."""
    return run_command(replay_command, arguments, name)


def command() -> int:
    """Run the command; wrong usage is one line and exit status 2, an MLflow that is still away 1."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(command())
