"""Command line over --config FILE.yaml over defaults -> SearchPlan -> a finished run."""

import re
import sys
import typing
from typing import Any

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from analysis.results.messages import one_line, run_command
from tuning.lifecycle.output import unbreakable
from tuning.lifecycle.process import CUT_OFF, NO_ROOM, as_command, collect_garbage_again, last_words
from tuning.plan.choices import NAME_PATTERN
from tuning.plan.config_file import read_config
from tuning.plan.places import without_places_of_others
from tuning.plan.search_plan import SearchPlan

BRIEF = 120


def options() -> list[click.Parameter]:
    """Return one flag per field of ``SearchPlan``; a flag that is not given has no value."""
    return [_option(name, field) for name, field in SearchPlan.model_fields.items()]


def _option(name: str, field: FieldInfo) -> click.Option:
    default = "" if field.default in {None, ()} else f"  [default: {_shown(field.default)}]"
    kinds = [kind for kind in _flat(field.annotation) if kind is not type(None)]
    common: dict[str, Any] = {"default": None, "help": f"{field.description}{default}"}
    if bool in kinds:
        return click.Option([f"--{_dashed(name)}/--no-{_dashed(name)}"], **common)
    if typing.get_origin(field.annotation) is tuple:
        return click.Option([f"--{_dashed(name)}"], multiple=True, **{**common, "default": ()})
    words = [kind for kind in kinds if isinstance(kind, str)]
    kind = str if words else next((kind for kind in (int, float) if kind in kinds), str)
    return click.Option([f"--{_dashed(name)}"], type=kind, metavar=kind.__name__.upper(), **common)


def _flat(annotation: Any) -> list[Any]:
    if isinstance(annotation, str) or annotation in {int, float, str, bool, type(None)}:
        return [annotation]  # text is a word that may be chosen
    return [kind for argument in typing.get_args(annotation) for kind in _flat(argument)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def resolve_plan(config: str | None, given: dict[str, Any]) -> SearchPlan:
    """Put command line over file over defaults.

    Raises:
        click.ClickException: One line that names the flag or key and the value, with exit status 2.
    """
    try:
        return SearchPlan(**choices(config, given))
    except ValidationError as error:
        raise click.UsageError(_named(error, config)) from error


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
    return values | {name: value for name, value in given.items() if value is not None and value != ()}


def _named(error: ValidationError, config: str | None) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("a valid tuple", "a list")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"--config {config}: unknown key {_brief(name)}; known: {', '.join(SearchPlan.model_fields)}"
    return f"--{_dashed(name)} {_brief(first['input'])}: {message}"


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= BRIEF else f"{shown[:BRIEF]}… ({len(shown):,} characters)"


def command(
    config: str | None, dry_run: bool, json: bool, verbose: bool, resume: str | None, extend: int | None,
    allow_changes: bool, **given: Any,
) -> int:  # fmt: skip
    """Check everything, then train, then report. Returns the exit code."""
    if resume is None and (extend is not None or allow_changes):
        raise click.UsageError(
            f"{'--extend' if extend is not None else '--allow-changes'} needs --resume NAME, the search to go on"
        )
    if json and not dry_run:
        raise click.UsageError("--json is a form of --dry-run; give both")
    if resume is not None and dry_run:
        raise click.UsageError("--dry-run shows a new search; --resume takes up an old one; give one of them")
    if resume is not None and not re.match(NAME_PATTERN, resume):
        raise click.UsageError(f"--resume {resume!r}: must be the name of a search, which is one folder name")
    # a resumed search has choices of its own, beside which these may be right or wrong
    plan = resolve_plan(config, given) if resume is None else None
    from tuning import pipeline
    from tuning.callbacks.terminal import Terminal
    from tuning.lifecycle import search_log, stop  # torch and Ray take seconds to import; a wrong flag should not
    from tuning.search_result import SearchStopped, Unusable

    collect_garbage_again()
    if verbose:
        click.get_current_context().with_resource(search_log.heard_by(search_log.TerminalLog()))
    try:
        with as_command():
            if plan is None:
                changes = choices(config, given)
                ended = pipeline.resume(
                    str(resume), extend=extend or 0, allow_changes=allow_changes, observer=Terminal(), **changes
                )
                return ended.status or 0
            if dry_run:
                pipeline.dry_run(plan, json, Terminal())
                return 0
            return pipeline.search(plan, Terminal()).status or 0
    except SearchStopped as error:
        return error.status  # the terminal has said why
    except ValueError as error:
        if isinstance(error.__cause__, ValidationError):
            raise click.UsageError(_named(error.__cause__, config)) from error
        if isinstance(error, Unusable):
            raise click.UsageError(str(error)) from error
        raise
    except stop.OUTSIDE as error:
        cause = stop.cause_of(error, given["runs_dir"] or pipeline.RUNS_DIR)
        if cause is None:
            raise
        if cause.want_of_room:
            print(f"Error: {one_line(cause.text)}; free some room, then use --resume NAME", file=sys.stderr)
            return NO_ROOM
        print(f"Error: {one_line(cause.text)}. {last_words()}", file=sys.stderr)
        return CUT_OFF


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Exit status: 0 all well, 1 no usable trial, 2 wrong usage, 3 some trials failed, 4 the disk is full, 5 a disk or Ray
    failed, 6 the winner's adapter has another loss when others load it, 129, 130 or 143 stopped by SIGHUP, SIGINT or
    SIGTERM.
    """
    cli = click.Command("tune.py", params=options() + extra_options(), callback=command, help=__doc__,
                        epilog=main.__doc__)  # fmt: skip
    with unbreakable():
        return run_command(cli, arguments, "tune.py", wrong_usage=(), stopped="Stopped before any trial began")


def extra_options() -> list[click.Parameter]:
    """Return the flags that are no choices of a plan."""
    return [
        click.Option(["--resume"], metavar="NAME", help="Take up a search that was cut off"),
        click.Option(["--extend"], type=click.IntRange(min=1), metavar="N", help="With --resume: add N trials"),
        click.Option(["--allow-changes"], is_flag=True, help="With --resume: go on though something is different"),
        click.Option(["--config"], metavar="FILE", help="YAML file with the same names, '_' for '-'"),
        click.Option(["--dry-run"], is_flag=True, help="Show the resolved plan, budget and cost; train nothing"),
        click.Option(["--json"], is_flag=True, help="With --dry-run: as JSON"),
        click.Option(["--verbose"], is_flag=True, help="Show the lines of search.log on the terminal"),
    ]
