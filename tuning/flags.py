"""The flags of a search, made from the plan, and the help that shows them in its groups."""

import typing
from collections.abc import Iterator
from typing import Any

import click
from pydantic.fields import FieldInfo

from tuning.command import SUBCOMMANDS
from tuning.plan.choices import (
    BudgetChoices,
    Choices,
    ModelChoice,
    SearchChoices,
    StorageChoices,
    TrainingChoices,
    VerdictChoices,
)
from tuning.plan.data_choices import DataChoices
from tuning.plan.engine_choices import EngineChoices
from tuning.plan.search_plan import SearchPlan

GROUPS: dict[str, type[Choices]] = {
    "Model": ModelChoice,
    "Data": DataChoices,
    "Budget": BudgetChoices,
    "Search": SearchChoices,
    "Training": TrainingChoices,
    "Verdict": VerdictChoices,
    "Engine": EngineChoices,
    "Files and servers": StorageChoices,
}
"""Heading -> the choices below it, in the order in which help and ``docs/configuration.md`` have them."""
OTHERS = "Going on, and looking"
STATUSES = {
    "0": "all well",
    "1": "no usable trial; there is a report all the same",
    "2": "wrong usage: one line says what, and nothing was written",
    "3": "some trials failed",
    "4": "the disk is full; --resume goes on",
    "5": "a disk or Ray failed; --resume goes on",
    "6": "the winner's adapter has another loss when others load it",
    "129, 130, 143": "stopped by SIGHUP, SIGINT or SIGTERM; --resume goes on",
}
"""Exit status -> what it says of a search."""
EXAMPLES = (
    "--num-samples 20",
    "--model DIR_OR_HUB_ID --dataset train.jsonl --budget-rank 8 --confirm-seeds 10",
    "--resume latest",
)


class SearchCommand(click.Command):
    """The command of a search, whose help begins with examples and has its flags in groups."""

    def format_help(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples, flags by group, other commands and exit statuses."""
        formatter.write_text("Which LoRA rank for which layer, and is that better than one rank for all?")
        name = context.command_path
        with formatter.section("Examples"):
            for flags in EXAMPLES:
                formatter.write_text(f"{name} {flags}")
        flags_of = {option.name: option.get_help_record(context) for option in self.get_params(context)}
        for heading, group in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([record for field in fields_of(group) if (record := flags_of.pop(field, None))])
        with formatter.section(OTHERS):
            formatter.write_dl([record for record in flags_of.values() if record])
        with formatter.section("Other commands"):
            rows = [(f"{name} {word}", item.summary) for word, item in SUBCOMMANDS.items()]
            formatter.write_dl(rows)
        with formatter.section("Exit status"):
            formatter.write_dl([*STATUSES.items()])


def fields_of(group: type[Choices]) -> list[str]:
    """Return the names of a group's choices."""
    return [*group.model_fields]


def options() -> list[click.Parameter]:
    """Return one flag per field of ``SearchPlan``; a flag that is not given has no value."""
    return [_option(name, field) for name, field in SearchPlan.model_fields.items()]


def extra_options() -> list[click.Parameter]:
    """Return the flags that are no choices of a plan."""
    return [
        click.Option(["--resume"], metavar="NAME", help="Take up a search that was cut off; `latest` is the newest"),
        click.Option(["--extend"], type=click.IntRange(min=1), metavar="N", help="With --resume: add N trials"),
        click.Option(["--allow-changes"], is_flag=True, help="With --resume: go on though something is different"),
        click.Option(["--config"], metavar="FILE", help="YAML file with the same names, '_' for '-'"),
        click.Option(["--dry-run"], is_flag=True, help="Show data, an example, budget, ranks and cost; train nothing"),
        click.Option(["--json"], is_flag=True, help="With --dry-run: as JSON"),
        click.Option(["--verbose"], is_flag=True, help="Show the lines of search.log on the terminal"),
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
                     help="Show the version and end"),
    ]  # fmt: skip


def default_of(field: FieldInfo) -> str:
    """Return a choice's default; nothing where leaving the flag out is the only way to have it."""
    if field.default in {None, ()}:
        return ""
    return ", ".join(field.default) if isinstance(field.default, tuple) else str(field.default)


def values_of(field: FieldInfo) -> str:
    """Return what may follow a flag: its words, and of what kind another value is."""
    kinds = [kind for kind in _flat(field.annotation) if kind is not type(None)]
    words = list(dict.fromkeys(kind for kind in kinds if isinstance(kind, str)))
    types = list(
        dict.fromkeys(kind.__name__.upper() for kind in kinds if not isinstance(kind, str) and kind is not bool)
    )
    return "|".join([*types, *words])


def dashed(name: str) -> str:
    """Return a choice's name as its flag has it."""
    return name.replace("_", "-")


def _option(name: str, field: FieldInfo) -> click.Option:
    kinds = [kind for kind in _flat(field.annotation) if kind is not type(None)]
    default = f"  [default: {shown}]" if (shown := default_of(field)) and bool not in kinds else ""
    common: dict[str, Any] = {"default": None, "help": f"{field.description}{default}"}
    if bool in kinds:
        return click.Option([f"--{dashed(name)}/--no-{dashed(name)}"], **common)
    if typing.get_origin(field.annotation) is tuple:
        return click.Option([f"--{dashed(name)}"], multiple=True, metavar="TEXT", **{**common, "default": ()})
    words = [kind for kind in kinds if isinstance(kind, str)]
    kind = str if words or str in kinds else next((kind for kind in (int, float) if kind in kinds), str)
    return click.Option([f"--{dashed(name)}"], type=kind, metavar=values_of(field), **common)


def _flat(annotation: Any) -> list[Any]:
    if isinstance(annotation, str) or annotation in {int, float, str, bool, type(None)}:
        return [annotation]  # text is a word that may be chosen
    return [kind for argument in typing.get_args(annotation) for kind in _flat(argument)]


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from tuning.state.facts import PROJECT, own_version

        click.echo(f"{PROJECT} {own_version()}")
        context.exit()


def table() -> Iterator[str]:
    """Yield the lines of ``docs/configuration.md`` that list the flags."""
    for heading, group in GROUPS.items():
        yield from (f"### {heading}", "", "| flag | value | default | meaning |", "| --- | --- | --- | --- |")
        for name in fields_of(group):
            field = SearchPlan.model_fields[name]
            is_switch = isinstance(field.default, bool)
            default = {False: "off", True: "on"}.get(field.default, "") if is_switch else default_of(field)
            shown = [_code(values_of(field).replace("|", "\\|")), _code(default), field.description or ""]
            yield f"| `--{dashed(name)}` | {' | '.join(shown)} |"
        yield ""
    yield from (f"### {OTHERS}", "", "| flag | meaning |", "| --- | --- |")
    for option in extra_options():
        assert isinstance(option, click.Option)
        yield f"| `{option.opts[0]}` | {option.help} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
