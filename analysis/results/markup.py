"""Text from outside in Markdown: names, paths and errors stay what they are, whatever is in them.

Rows, plans and facts are files that anybody may have written, and a report is opened in a browser. So whatever comes
from them passes one of these functions, and a page renders no HTML of its Markdown.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from analysis.results.messages import one_line

SPECIAL = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])|^[#+=-](?=\s|$)|^(?=[#=-]{2})")
"""What means something in Markdown or HTML; an underscore inside a word does not."""
ESCAPED = re.compile(r"\\([\\`*\[\]<>|&~$_#+=-])")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def inline(text: object) -> Markdown:
    """Return one line of Markdown that shows a text as it is; Markdown is returned unchanged."""
    if isinstance(text, Markdown):
        return text
    return Markdown(SPECIAL.sub(lambda match: f"\\{match.group()}", one_line(str(text))))


def plain(markdown: str) -> str:
    """Return the text that ``inline`` was given, as a line."""
    return ESCAPED.sub(r"\1", markdown)


def code(text: object) -> Markdown:
    """Return a text as code in a line, between more backticks than it has."""
    line = one_line(str(text)) or " "  # nothing between two backticks is no code
    ticks = "`" * (1 + _longest_run("`", line))
    space = " " if "`" in line or line != line.strip() else ""
    return Markdown(f"{ticks}{space}{line}{space}{ticks}")


def fenced(lines: Iterable[str], language: str = "") -> list[str]:
    """Return lines as a block of code, between more backticks than they have."""
    text = "\n".join("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line) for line in lines)
    fence = "`" * max(3, 1 + _longest_run("`", text))
    return [f"{fence}{language}", *text.split("\n"), fence]


def table(body: Sequence[Sequence[Any]], headers: Sequence[Any], numbers: bool = False) -> str:
    """Return a Markdown table; every cell that is no number is shown as it is.

    Args:
        body: Its rows. None is shown as nothing.
        headers: A name for each column.
        numbers: Whether columns of numbers are set to the right.
    """
    cells = [[cell if numbers and isinstance(cell, int | None) else _cell(cell) for cell in row] for row in body]
    return tabulate(
        cells, [inline(header) for header in headers], "pipe", disable_numparse=not numbers, missingval=""
    )  # fmt: skip


def _cell(cell: object) -> str:
    return "" if cell is None else inline(cell)


def _longest_run(sign: str, text: str) -> int:
    return max(map(len, re.findall(f"{re.escape(sign)}+", text)), default=0)
