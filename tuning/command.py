"""``lora-rank-search``: a search, and what is done with a finished one; ``python tune.py`` is the same."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tuning.lifecycle import process


class Subcommand(NamedTuple):
    """What ``lora-rank-search NAME`` calls.

    Args:
        function: ``module:name`` of what takes arguments and the name that help shows, and returns the exit status.
        summary: What it does, in a line.
    """

    function: str
    summary: str


SUBCOMMANDS = {
    "search": Subcommand("tuning.cli:main", "Search the ranks for a model and data (also without its name)"),
    "report": Subcommand("analysis.__main__:main", "Write the report of a run again, compare runs, or print a verdict"),
    "export": Subcommand("trainables.export:main", "Write the winner's adapter in another form, or merged"),
    "train": Subcommand("tuning.train:main", "Train the recommended allocation on all rows"),
    "audit": Subcommand("analysis.audit.__main__:main", "Say what any PEFT adapter is, and what is wrong with it"),
    "replay": Subcommand("tuning.tracking.__main__:replay_run", "Send MLflow what it missed of a run"),
}
"""A further one is one line."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit status.

    Args:
        arguments: The command line; None takes the process's.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and words[0] in SUBCOMMANDS else "search"
    if name == "search":
        process.begin_search()
    module, _, function = SUBCOMMANDS[name].function.partition(":")
    program = process.program()
    # seconds of imports, in which somebody may change their mind
    main: Callable[[Sequence[str], str], int] = getattr(importlib.import_module(module), function)
    status = main(words, program if name == "search" else f"{program} {name}")
    process.end_without_collecting()
    return status


def installed() -> int:
    """Be the command ``lora-rank-search``."""
    process.call_it(process.INSTALLED)
    return run()
