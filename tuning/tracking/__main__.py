"""``python -m tuning.tracking replay RUN_DIR``: carry what MLflow missed."""

import sys
from pathlib import Path

import click
from filelock import Timeout

from analysis.results.messages import run_command
from tuning.tracking.events import replay
from tuning.tracking.outbox import OUTBOX, UnknownTarget, path_in
from tuning.tracking.uploader import Unreachable, brief


@click.group()
def main() -> None:
    """Carry what MLflow missed."""


@main.command("replay")
@click.argument("run_dir", type=click.Path(path_type=Path))
def replay_command(run_dir: Path) -> None:
    """Send the events of the outbox of RUN_DIR that MLflow does not have yet."""
    if not path_in(run_dir).is_file():
        raise click.UsageError(f"{run_dir}: no {OUTBOX} in it; give the folder of a run")
    try:
        carried, refused = replay(run_dir)
    except Timeout as error:
        message = f"{run_dir}: a search or another replay is carrying these events; wait for its end"
        raise click.UsageError(message) from error
    except UnknownTarget as error:
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


def command() -> int:
    """Run the command; wrong usage is one line and exit status 2, an MLflow that is still away 1."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(command())
