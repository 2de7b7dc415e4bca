"""What the columns of a table mean: rows in, documents out."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trainables.data import beside
from trainables.data.readers import Table, text_of
from trainables.data.source import DataSource, Format

COLUMNS: dict[Format, tuple[str, ...]] = {
    "text": ("text",),
    "pairs": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}
"""Format -> the columns by which it is recognised."""
USED_BESIDE = ("input", "tools")
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "observation": "tool"}
"""ShareGPT's names of roles -> those that chat templates know."""
ASSISTANT = "assistant"
KNOWN_ROLES = {"system", "user", ASSISTANT, "tool", *ROLES}
PYTHONS_MESSAGES = re.compile(r"\s*\[\s*\{(?=.*'(role|from)':)(?=.*'(content|value|tool_calls)':)", re.DOTALL)
"""How Python writes a list of messages, which is no JSON."""
Form = Literal["bundled", "text", "pair", "alpaca", "turns", "chat"]
EMPTY, DUPLICATE, UNANSWERED = "no text to learn", "a row again", "no turn of an assistant"


@dataclass(frozen=True, slots=True)
class Document:
    """A row that may not be split between training and test.

    Args:
        prompt: What precedes the learned text; empty for plain text. Rows of one prompt are in one split.
        text: The learned text.
        form: How both are to be read. ``turns`` is a pair of lists of messages, ``chat`` a list of them cut before the
            first answer to a user, ``alpaca`` has instruction and input as its prompt: all as JSON.
        tools: The tools of a conversation, as JSON; empty if it has none.
        system: What the system says before a pair; that of a conversation is its first message.
        place: File and row that it is from, for messages: a document is the same wherever it stands.
    """

    prompt: str
    text: str
    form: Form = "text"
    tools: str = ""
    system: str = ""
    place: str = field(default="", compare=False)

    @property
    def asked(self) -> str:
        """The prompt, if anything is asked in it; a system's text alone, which rows have in common, asks nothing."""
        if self.form not in {"turns", "chat", "alpaca"}:
            return self.prompt
        said = json.loads(self.prompt)
        if self.form == "alpaca":
            return self.prompt if any(said) else ""
        return self.prompt if any(message["role"] != "system" for message in said) else ""


@dataclass(frozen=True, slots=True)
class Layout:
    """A table's format and the columns that it has it in."""

    format: Format
    columns: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag of each column, for messages."""
        by_format = {"text": ("--text-column",), "pairs": ("--prompt-column", "--completion-column")}
        return by_format.get(self.format, ("--messages-column",) if len(self.columns) == 1 else ("", ""))


def is_wanted(source: DataSource, column: str) -> bool:
    """Return True if a column of that name may have to be read."""
    names = {name for columns in COLUMNS.values() for name in columns}
    return column in {*names, *USED_BESIDE, *beside.COLUMNS, *_named(source)}


def _named(source: DataSource) -> tuple[str, ...]:
    named = (source.text_column, source.prompt_column, source.completion_column, source.messages_column)
    return tuple(name for name in named if name is not None)


def layout_of(source: DataSource, columns: Sequence[str]) -> Layout:
    """Return the format of a table with such columns.

    Raises:
        ValueError: None fits, or several do, or a column that was named is not there.
    """
    chosen = _chosen(source)
    if chosen is not None:
        for flag, name in zip(chosen.flags, chosen.columns, strict=True):
            if name not in columns:
                raise ValueError(f"no column {name!r}{f' ({flag})' if flag else ''}; it has {_listed(columns)}")
        return chosen
    fitting = [name for name, needed in COLUMNS.items() if set(needed) <= set(columns)]
    if not fitting:
        flags = "--text-column, --prompt-column and --completion-column, or --messages-column"
        raise ValueError(
            f"no column 'text', 'messages', 'prompt' and 'completion', 'instruction' and 'output', or 'conversations'; "
            f"it has {_listed(columns)}: name what is to be learned with {flags}"
        )
    if len(fitting) > 1:
        raise ValueError(
            f"its columns fit {' and '.join(fitting)}; say which with --data-format {' or '.join(fitting)}"
        )
    return Layout(fitting[0], COLUMNS[fitting[0]])


def _listed(columns: Sequence[str]) -> str:
    """Return names as a list; one with a space around it in quotes, since nobody would see that."""
    return ", ".join(name if name == name.strip() and name else repr(name) for name in columns)


def _chosen(source: DataSource) -> Layout | None:
    if source.prompt_column and source.completion_column:
        return Layout("pairs", (source.prompt_column, source.completion_column))
    if source.messages_column:
        return Layout(source.data_format or "messages", (source.messages_column,))
    if source.text_column:
        return Layout("text", (source.text_column,))
    return Layout(source.data_format, COLUMNS[source.data_format]) if source.data_format else None


def documents_of(source: DataSource, table: Table, left_out: Counter[str]) -> Iterator[Document]:
    """Yield a table's documents; what is left out is counted by its reason.

    Args:
        source: What was asked for.
        table: What the file has.
        left_out: Reason -> rows; added to.

    Raises:
        ValueError: The format is not clear, or a row does not have it.
    """
    if not table.columns:
        if source.for_columns is not None:
            raise ValueError(f"{source.for_columns}: this file has no columns; leave it out")
        layout, rows = Layout("text", ("",)), table.rows
    else:
        layout, rows = layout_of(source, table.columns), table.rows
    _check_not_all_null(layout, rows)
    for number, row in enumerate(rows, 1):
        document = _document(layout, row, number, source.learn == "all")
        if isinstance(document, Document):
            yield replace(document, place=f"{table.place}: row {number:,}")
        else:
            left_out[document] += 1


def _check_not_all_null(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> None:
    for flag, name in zip(layout.flags, layout.columns, strict=False):
        if name and rows and all(name not in row for row in rows):
            shown = f" ({flag})" if flag else ""
            raise ValueError(f"the column {name!r}{shown} is null in all {len(rows):,} rows; give another")


def _document(layout: Layout, row: Mapping[str, Any], number: int, learns_all: bool) -> Document | str:
    """Return a row's document, or why it has none."""
    if null := next((name for name in layout.columns if name not in row), None):
        return f"null in {null!r}"
    if layout.columns == ("",) and not row:
        return EMPTY
    cells = [row[name] for name in layout.columns]
    is_turns = layout.format == "pairs" and any(_is_conversation(cell) for cell in cells)
    beside.check_beside("turns" if is_turns else layout.format, layout.columns, row, number)
    system = beside.system_of(layout.columns, row, number) if layout.format != "text" else ""
    if layout.format in {"messages", "sharegpt"}:
        messages = beside.with_system(_messages(cells[0], number), system, number)
        return _conversation(messages, _tools(row, number), learns_all)
    if is_turns:
        return _turns(cells, system, row, number)
    texts = [_text(cell, number, flag) for cell, flag in zip(cells, layout.flags, strict=False)]
    if not texts[-1].strip():
        return EMPTY
    if layout.format == "alpaca":
        given = _text(row.get("input", ""), number, "input")
        return Document(json.dumps([texts[0], given], ensure_ascii=False), texts[1], "alpaca", "", system)
    return Document("", texts[0]) if layout.format == "text" else Document(texts[0], texts[1], "pair", "", system)


def _text(cell: Any, number: int, flag: str) -> str:
    try:
        return text_of(cell)
    except ValueError as error:
        raise ValueError(f"row {number:,} has no text{f' ({flag})' if flag else ''} {error}") from error


def _conversation(messages: list[dict[str, Any]], tools: str, learns_all: bool) -> Document | str:
    answers = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
    learned = messages if learns_all else messages[answers[0] :] if answers else []
    if not any(message.get("content") or message.get("tool_calls") for message in learned):
        return EMPTY if answers or learns_all else UNANSWERED
    asked = next((index for index, message in enumerate(messages) if message["role"] == "user"), 0)
    # a greeting tells no two apart
    begin = next((index for index in answers if index > asked), answers[0] if answers else len(messages))
    return Document(_json(messages[:begin]), _json(messages[begin:]), "chat", tools)


def _is_conversation(cell: Any) -> bool:
    """Return True for a list, and for text that is one of messages: a file of cells has no other way to write it."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return isinstance(cell, list)
    try:
        content = json.loads(cell)
    except (ValueError, RecursionError):
        return PYTHONS_MESSAGES.match(cell) is not None  # refused where it is read
    return content != [] and all(isinstance(item, dict) and _has_message(item) for item in content)


def _has_message(item: Mapping[str, Any]) -> bool:
    return any(keys <= item.keys() for keys in ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"}))


def _turns(cells: Sequence[Any], system: str, row: Mapping[str, Any], number: int) -> Document | str:
    if not all(_is_conversation(cell) for cell in cells):
        raise ValueError(
            f"row {number:,} has messages in one of its two columns and text in the other; make both alike"
        )
    prompt, completion = (_messages(cell, number) for cell in cells)
    if not completion or not any(message.get("content") or message.get("tool_calls") for message in completion):
        return EMPTY
    prompt = beside.with_system(prompt, system, number)
    return Document(_json(prompt), _json(completion), "turns", _tools(row, number))


def _messages(cell: Any, number: int) -> list[dict[str, Any]]:
    """Return messages with ``role`` and ``content``; what is null in them is not there."""
    try:
        content = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, list):
        raise ValueError(f"row {number:,} has no list of messages but {str(cell)[:40]}; correct the file")
    return [_message(message, number) for message in content]


def _message(message: Any, number: int) -> dict[str, Any]:
    wrong = f"row {number:,} has no message with role and content but {str(message)[:60]}; correct the file"
    if not isinstance(message, Mapping):
        raise ValueError(wrong)
    made = _renamed(message, number)
    role, content = made.get("role"), made.get("content", "")
    if "function_call" in made or role == "function_call":
        raise ValueError(f"row {number:,} has a 'function_call', which templates do not know; write it as 'tool_calls'")
    if not isinstance(role, str) or not isinstance(content, str | list) or not {"content", "tool_calls"} & made.keys():
        raise ValueError(wrong)
    if isinstance(content, list):
        _check_parts(content, number)
    return {"role": _role(role), **{key: value for key, value in made.items() if key != "role"}}


def _renamed(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a message with the keys that templates know; another key's value never takes the place of theirs."""
    given = {str(key): _plain(value) for key, value in message.items() if value is not None}
    for key, name in _KEYS.items():
        if {key, name} <= given.keys() and _role(given[key]) != _role(given[name]):
            raise ValueError(
                f"row {number:,} has a message with {name!r} {str(given[name])[:30]!r} and {key!r} "
                f"{str(given[key])[:30]!r}, which differ; drop one"
            )
    return {_KEYS.get(key, key): value for key, value in given.items()}


def _role(name: Any) -> Any:
    """Return the name that templates know of a role; anything else as it is."""
    lower = name.lower() if isinstance(name, str) else ""
    return ROLES.get(lower, lower) if lower in KNOWN_ROLES else name


def _check_parts(parts: Sequence[Any], number: int) -> None:
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if strange := next((str(part) for part, text in zip(parts, texts, strict=True) if not isinstance(text, str)), None):
        raise ValueError(f"row {number:,} has a content that is no text, {strange[:60]}; leave such rows out")


_KEYS = {"from": "role", "value": "content"}


def _plain(value: Any) -> Any:
    """Leave out what is null inside: a column of Arrow has every key in every row."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _tools(row: Mapping[str, Any], number: int) -> str:
    """Return a row's tools as JSON; empty if it has none, however that is written."""
    tools = row.get("tools")
    if not beside.says_something(tools):
        return ""
    try:
        tools = _plain(json.loads(tools) if isinstance(tools, str) else tools)
        return _json(tools) if beside.says_something(tools) else ""
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"row {number:,} has no JSON in 'tools' but {str(row['tools'])[:40]}; correct the file"
        ) from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
