"""Command line over --config FILE.yaml over defaults -> SearchPlan -> a finished run."""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from analysis.results.messages import one_line, run_command
from tuning.flags import SearchCommand, extra_options, options
from tuning.lifecycle import process
from tuning.lifecycle.output import unbreakable
from tuning.lifecycle.process import CUT_OFF, DISK_FULL, as_command, collect_garbage_again, last_words
from tuning.lifecycle.timeline import Stage
from tuning.plan.choices import NAME_PATTERN
from tuning.plan.config_file import read_config
from tuning.plan.places import check_files, check_places, without_places_of_others
from tuning.plan.search_plan import SearchPlan, UnknownChoice, WrongChoice

if TYPE_CHECKING:
    from tuning.callbacks.terminal import Terminal

HELP_WIDTH = 120
RUNS_DIR = SearchPlan.model_fields["runs_dir"].default


def resolve_plan(config: str | None, given: dict[str, Any]) -> SearchPlan:
    """Put command line over file over defaults.

    Raises:
        click.ClickException: One line that names the flag or key and the value, with exit status 2.
    """
    try:
        return SearchPlan(**choices(config, given))
    except WrongChoice as error:
        raise click.UsageError(_told(error, config)) from error


def _told(error: ValueError, config: str | None) -> str:
    """Return what is wrong, and with a key that no plan has in which file it is."""
    return f"--config {config}: {error}" if config is not None and isinstance(error, UnknownChoice) else str(error)


def _plan(config: str | None, given: dict[str, Any]) -> SearchPlan:
    plan = resolve_plan(config, given)
    try:
        check_files(plan)
        check_places(plan)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return plan


def _check_there(name: str, runs_dir: str) -> None:
    """Look whether there is a search of that name; where a folder cannot be read, what takes it up says so."""
    from tuning.state.continuation import folder_of  # here, since a new search needs none of it

    try:
        with suppress(OSError):
            folder_of(name, runs_dir)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def choices(config: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return what was chosen, by the command line or by its file; defaults are left out.

    Raises:
        click.ClickException: The file is no mapping of choices.
    """
    try:
        values, left_out = without_places_of_others(config, read_config(config)) if config is not None else ({}, [])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if left_out := [name for name in left_out if given.get(name) is None]:
        click.echo(f"--config {config}: of another run, whose {', '.join(left_out)} are not taken", err=True)
    chosen = {name: value for name, value in given.items() if value is not None and value != ()}
    return values | chosen


def _check_modes(dry_run: bool, json: bool, resume: str | None, needs_resume: str | None, name: str | None) -> None:
    """Refuse what of a search that begins, goes on or is only shown does not go together.

    Args:
        dry_run: Whether it is only shown.
        json: Whether that is to be JSON.
        resume: Name of the search that goes on.
        needs_resume: A flag that is of such a search alone.
        name: What a search that begins is to be called.
    """
    if resume is None and needs_resume is not None:
        raise click.UsageError(f"{needs_resume} needs --resume NAME, the search to go on")
    if json and not dry_run:
        raise click.UsageError("--json is a form of --dry-run; give both")
    if resume is not None and dry_run:
        raise click.UsageError("--dry-run shows a new search; --resume takes up an old one; give one of them")
    if resume is not None and not re.match(NAME_PATTERN, resume):
        raise click.UsageError(f"--resume {resume!r}: must be the name of a search, which is one folder name")
    if resume is not None and name not in {None, resume}:
        raise click.UsageError(f"--name {name}: a search that goes on keeps its name, {resume}; leave it out")


def command(
    config: str | None, dry_run: bool, json: bool, verbose: bool, resume: str | None, extend: int | None,
    allow_changes: bool, **given: Any,
) -> int:  # fmt: skip
    """Check everything, then train, then report. Returns the exit code."""
    needs_resume = "--extend" if extend is not None else "--allow-changes" if allow_changes else None
    _check_modes(dry_run, json, resume, needs_resume, given["name"])
    # a resumed search has choices of its own, beside which these may be right or wrong
    plan = _plan(config, given) if resume is None else None
    changes = choices(config, given) if resume is not None else {}
    if resume is not None:
        _check_there(resume, changes.get("runs_dir") or RUNS_DIR)
    from tuning.callbacks.terminal import Terminal

    terminal = Terminal()
    if not dry_run:
        _greet(terminal, plan, resume)
    from tuning import pipeline, resuming
    from tuning.lifecycle import search_log, stop  # torch and Ray take seconds to import; a wrong flag should not
    from tuning.search_result import SearchStopped, Unusable

    collect_garbage_again()
    if verbose:
        click.get_current_context().with_resource(search_log.heard_by(search_log.TerminalLog()))
    try:
        with as_command():
            if plan is None:
                ended = resuming.resume(
                    str(resume), extend=extend or 0, allow_changes=allow_changes, observer=terminal, **changes
                )
                return ended.status or 0
            if dry_run:
                pipeline.dry_run(plan, json, terminal)
                return 0
            return pipeline.search(plan, terminal).status or 0
    except SearchStopped as error:
        return error.status  # the terminal has said why
    except Unusable as error:
        why = error.__cause__ if isinstance(error.__cause__, UnknownChoice) else error
        raise click.UsageError(_told(why, config)) from error
    except stop.OUTSIDE as error:
        cause = stop.cause_of(error, given["runs_dir"] or RUNS_DIR)
        if cause is None:
            raise
        if cause.disk_is_full:
            print(f"Error: {one_line(cause.text)}; free some room, then use --resume NAME", file=sys.stderr)
            return DISK_FULL
        print(f"Error: {one_line(cause.text)}. {last_words()}", file=sys.stderr)
        return CUT_OFF
    finally:
        terminal.close()


def _greet(terminal: "Terminal", plan: SearchPlan | None, resume: str | None) -> None:
    """Show what was asked for before libraries are imported, and that they are."""
    if plan is None:
        terminal.noted(f"Taking up {resume}")
    else:
        terminal.planned(plan)
    terminal.stage_began(Stage.IMPORTS)


def main(arguments: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run the command and return its exit status, one of ``tuning.flags.STATUSES``.

    Args:
        arguments: Its command line; None takes the process's.
        name: As help shows it; None takes that of the process.
    """
    settings = {"max_content_width": HELP_WIDTH}
    cli = SearchCommand("search", params=options() + extra_options(), callback=command, context_settings=settings)
    with unbreakable():
        name = name or process.program()
        return run_command(cli, arguments, name, wrong_usage=(), stopped=process.NOTHING_BEGUN)
