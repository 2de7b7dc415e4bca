"""What a conversation says, calls and may call stands in what the chat template writes of it, or the row is refused."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

Message = dict[str, Any]
Render = Callable[[Sequence[Message], Any], str]
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message under which models' templates expect what an assistant thinks."""
ROLES = ("system", "user", "assistant", "tool")
TAG = re.compile(r"(<[^<>\n]{1,40}>|\[/?[A-Z]+\])")
"""What thoughts begin and end with: templates cut a content there, and leave out a part."""
INNER = re.compile(r"\S(?:.*\S)?", re.DOTALL)
ADVICE = "or leave such rows out"


def check_said(messages: Sequence[Message], learned: Sequence[int], tools: Any, render: Render) -> None:
    """Check that a template writes all that learned turns say and think.

    Each part is replaced by a word that stands nowhere else: a short thought may stand in another turn, too.

    Args:
        messages: The conversation.
        learned: Numbers of the turns that are learned.
        tools: Its tools, or None.
        render: Applies the template.

    Raises:
        ValueError: It leaves out a part; quotes it.
    """
    words: dict[str, str] = {}
    numbers = count()
    turns = [_in_words(turn, words, numbers) if index in learned else turn for index, turn in enumerate(messages)]
    written = render(turns, tools) if words else ""
    if lost := next((said for word, said in words.items() if word not in written), None):
        raise ValueError(
            f"the chat template leaves out what is to be learned, {lost[:40]!r}; give --chat-template FILE with one "
            f"that writes it, {ADVICE}"
        )


def _in_words(message: Message, words: dict[str, str], numbers: Iterator[int]) -> Message:
    """Return a message whose parts are words, and note what each stands for."""

    def word(part: re.Match[str]) -> str:
        made = f"part{next(numbers)}part"
        words[made] = part[0]
        return made

    def replaced(text: str) -> str:
        return "".join(part if TAG.fullmatch(part) else INNER.sub(word, part) for part in TAG.split(text))

    made = dict(message)
    thoughts = {text: "" for key in THOUGHTS if isinstance(text := message.get(key), str)}
    thoughts = {text: replaced(text) for text in thoughts}  # equal ones are one thought: a template writes it once
    made.update({key: thoughts[made[key]] for key in THOUGHTS if isinstance(made.get(key), str)})
    content = message.get("content")
    if isinstance(content, str):
        made["content"] = replaced(content)
    elif isinstance(content, list):
        made["content"] = [{**part, "text": replaced(part["text"])} for part in content]
    return made


def check_roles(messages: Sequence[Message], template: str) -> None:
    """Check that roles are those that templates know, or that this one names: others write any that they get.

    Raises:
        ValueError: One is another.
    """
    for role in dict.fromkeys(message["role"] for message in messages):
        if role not in ROLES and not re.search(rf"""(?<!\[)(['"]){re.escape(role)}\1""", template):
            raise ValueError(
                f"the role {role[:40]!r} is none of {', '.join(ROLES)}, and the chat template does not name it; rename "
                f"it, {ADVICE}"
            )


def check_tools(messages: Sequence[Message], tools: Any, render: Render) -> None:
    """Check that a template writes tools, and each call: else it would be learned to say nothing there.

    Raises:
        ValueError: It leaves out one; names it.
    """
    calls = [(index, *less) for index, message in enumerate(messages) for less in _with_one_call_less(message)]
    if tools is None and not calls:
        return
    written = render(messages, tools)
    if tools is not None and _is_written_of(written, render, messages, None):
        raise ValueError(f"the chat template leaves out the row's 'tools'; {_knowing_tools()}")
    for index, without, call in calls:
        if _is_written_of(written, render, [*messages[:index], without, *messages[index + 1 :]], tools):
            name = _name_of(call)[:40]
            raise ValueError(f"the chat template leaves out that the assistant calls {name}; {_knowing_tools()}")


def _is_written_of(written: str, render: Render, messages: Sequence[Message], tools: Any) -> bool:
    """Return True if a template writes the same of less. One that refuses that has looked for what is not there."""
    try:
        return render(messages, tools) == written
    except ValueError:
        return False


def _with_one_call_less(message: Message) -> Iterator[tuple[Message, Any]]:
    """Yield a message without one of its calls, and that call."""
    calls = message.get("tool_calls")
    for index, call in enumerate(calls if isinstance(calls, list) else ()):
        rest = [*calls[:index], *calls[index + 1 :]] if isinstance(calls, list) else []
        others = {key: value for key, value in message.items() if key != "tool_calls"}
        yield ({**others, "tool_calls": rest} if rest else others), call


def _name_of(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, dict) else call
    return str(function.get("name", function) if isinstance(function, dict) else function)


def _knowing_tools() -> str:
    return f"give --chat-template FILE with one that knows tools, {ADVICE}"
