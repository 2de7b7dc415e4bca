"""Columns beside a format's own that change what its rows mean: a system text is heeded, the others are refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.data.readers import text_of

SYSTEM = ("system", "system_prompt")
"""Names of a column with what a system says before a conversation, or before a pair."""
NOT_READ = {
    "pairs": ("history", "tools"),
    "alpaca": ("history", "tools"),
    "turns": ("history", "functions", "chat_template_kwargs"),
    "messages": ("functions", "chat_template_kwargs"),
    "sharegpt": ("functions", "chat_template_kwargs"),
}
"""Format -> columns that other loaders heed, and that nothing here does; ``turns`` are pairs of messages."""
INSTEAD = {"chat_template_kwargs": "drop the column", "functions": "call the column 'tools'"}
"""Column that is not read -> what to do about it, where messages would have it, too."""
COLUMNS = {*SYSTEM, *(name for names in NOT_READ.values() for name in names)}
NOTHING: tuple[Any, ...] = ("", "[]", "{}", "null", [], {})


def check_beside(form: str, columns: Sequence[str], row: Mapping[str, Any], number: int) -> None:
    """Check that nothing is said beside a row's own columns that would be lost.

    Args:
        form: Name of the format, or ``turns``.
        columns: The format's columns.
        row: Column -> cell.
        number: The row's, for messages.

    Raises:
        ValueError: Something is; names the column.
    """
    for name in NOT_READ.get(form, ()):
        if name not in columns and says_something(row.get(name)):
            instead = INSTEAD.get(name, "write such rows as messages")
            raise ValueError(f"row {number:,} has {name!r}, which would be lost; {instead}")


def says_something(cell: Any) -> bool:
    """Return False for a null and what is written for one; so is a column of Arrow that has every key in every row."""
    if isinstance(cell, str):
        return cell.strip() not in NOTHING
    if isinstance(cell, Mapping):
        return any(value is not None for value in cell.values())
    return cell is not None and cell not in NOTHING


def system_of(columns: Sequence[str], row: Mapping[str, Any], number: int) -> str:
    """Return what a row has in a column for the system; empty if nothing.

    Raises:
        ValueError: It is no text.
    """
    name = next((name for name in SYSTEM if name in row and name not in columns), None)
    try:
        said = "" if name is None else text_of(row[name])
    except ValueError as error:
        raise ValueError(f"row {number:,} has no text ({name}) {error}") from error
    return said if said.strip() else ""


def with_system(messages: list[dict[str, Any]], system: str, number: int) -> list[dict[str, Any]]:
    """Return a conversation that begins with what the system says.

    Raises:
        ValueError: It begins with something else that it says.
    """
    begins = messages[0] if messages and messages[0]["role"] == "system" else None
    if not system or (begins is not None and begins.get("content") == system):
        return messages
    if begins is not None:
        raise ValueError(f"row {number:,} has one system text in its messages and another beside them; drop one")
    return [{"role": "system", "content": system}, *messages]
