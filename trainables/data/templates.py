"""Documents as tokens: through the model's chat template or as they are, with what is learned of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.results.messages import first_line
from trainables.data.formats import ASSISTANT, Document
from trainables.data.rendering import Message, check_roles, check_said, check_tools
from trainables.data.source import DataSource
from trainables.data.text_files import read_text

IGNORED = -100
GENERATION = "{% generation"
SAMPLE = ({"role": "user", "content": "x"}, {"role": ASSISTANT, "content": "y"})


class NoTemplate(ValueError):
    """There is no template, whatever the row."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A document's tokens before it is cut.

    Args:
        input_ids: All of them.
        labels: As many; ``IGNORED`` where nothing is learned.
        by_hand: Whether the row was put into a template before, and so not into the one that there is.
    """

    input_ids: list[int]
    labels: list[int]
    by_hand: bool = False


class Encoder:
    """Makes tokens of documents as TRL's SFTTrainer does, but with one end token where that has two.

    Args:
        source: What was asked for.
        tokenizer: The model's.

    Raises:
        ValueError: The file of the template cannot be read.
    """

    def __init__(self, source: DataSource, tokenizer: Any):
        self.source, self.tokenizer = source, tokenizer
        self.template = _template(source, tokenizer)
        has_marks = self.template is not None and GENERATION in self.template.replace("{%-", "{%")
        self.marks = has_marks and tokenizer.is_fast  # others do not say which characters a token has
        self._special = _special_tokens(self.template, tokenizer)

    def tokens(self, document: Document) -> Tokens:
        """Return a document's tokens, not cut.

        Raises:
            ValueError: The template cannot be applied to it, or it is not certain what an assistant said.
        """
        if document.form == "bundled":
            ids = self.tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
            return Tokens(ids, ids)
        if document.form == "text":
            ids = self._closed(document.text)
            return Tokens(ids, ids)
        if document.form == "pair":
            return self._pair(document, document.prompt, document.prompt)
        if document.form == "alpaca":
            instruction, given = json.loads(document.prompt)
            asked = f"{instruction}\n\n{given}" if given else instruction
            return self._pair(document, asked, alpaca_prompt(instruction, given))
        before, after = (self._readable(json.loads(messages)) for messages in (document.prompt, document.text))
        tools = json.loads(document.tools) if document.tools else None
        check_tools(before + after, tools, self._rendered)
        if document.form == "turns":
            return self._completed(before, after, tools)
        return self._conversation(before + after, tools)

    def _readable(self, messages: list[Message]) -> list[Message]:
        """Join a content that is given in parts, unless the template knows parts: others write brackets and quotes."""
        if not any(isinstance(message.get("content"), list) for message in messages) or self._knows_parts():
            return messages
        return [
            {**message, "content": "".join(part["text"] for part in message["content"])}
            if isinstance(message.get("content"), list)
            else message
            for message in messages
        ]

    def _knows_parts(self) -> bool:
        sample = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in SAMPLE]
        try:
            return self.template is None or "'type'" not in self._rendered(sample, None)
        except ValueError:  # it takes no such conversation
            return False

    def _pair(self, document: Document, asked: str, plain: str) -> Tokens:
        """Return a pair's tokens: a turn of the user that ``asked``, or without a template ``plain`` text."""
        system = [{"role": "system", "content": document.system}] if document.system else []
        if self._takes_template(asked):
            return self._turns([*system, _user(asked)], document.text)
        if system:
            why = "there is none" if self.template is None else "its prompt was put into one by hand"
            raise ValueError(f"what 'system' says needs a chat template, and {why}; drop the column")
        return replace(self._plain_pair(plain, document.text), by_hand=self.template is not None)

    def _takes_template(self, prompt: str) -> bool:
        """A prompt with a special token of the template was put into one by hand."""
        return self.template is not None and not any(token in prompt for token in self._special)

    def _turns(self, prompt: list[Message], answer: str) -> Tokens:
        return self._completed(prompt, [{"role": ASSISTANT, "content": answer}], None)

    def _plain_pair(self, prompt: str, completion: str) -> Tokens:
        begun, ids = self._ids(prompt), self._closed(prompt + completion)
        learned = 0 if self.source.learn == "all" else common_prefix(begun, ids)
        return _labelled(ids, [(learned, len(ids))])

    def _closed(self, text: str) -> list[int]:
        """Return a text's tokens as the tokenizer makes them, with its end token once at the end."""
        end = self.tokenizer.eos_token
        if end is None:
            return self._ids(text)
        ids = self._ids(text if text.endswith(end) else text + end)
        return ids[:-1] if ids[-2:] == [self.tokenizer.eos_token_id] * 2 else ids

    def _ids(self, text: str) -> list[int]:
        """Return a text's tokens as the tokenizer makes them; where the text begins as they do, it does so once."""
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        begin = self.tokenizer.bos_token_id
        doubled = begin is not None and ids[:2] == [begin] * 2 and text.startswith(self.tokenizer.bos_token)
        return ids[1:] if doubled else ids

    def _completed(self, prompt: list[Message], completion: list[Message], tools: Any) -> Tokens:
        """Return a conversation of which the completion is learned."""
        messages = prompt + completion
        ids = self._rendered_ids(messages, tools)
        learned = self._completion_begins(prompt, messages, tools, ids)
        if self.source.learn == "all":
            spans = [(0, len(ids))]
        elif [message["role"] for message in completion] == [ASSISTANT]:
            spans = [(learned, len(ids))]
        else:
            spans = [(max(learned, begin), end) for begin, end in self._spans(messages, tools, ids)]
        self._check(messages, self._learned_turns(messages, len(prompt)), tools)
        return _labelled(ids, spans)

    def _completion_begins(self, prompt: list[Message], messages: list[Message], tools: Any, ids: list[int]) -> int:
        if not prompt or self.source.learn == "all":
            return 0
        if self._begin_of(messages, len(prompt), tools, self._rendered(messages, tools)) is None:
            raise ValueError(
                "what is learned cannot be told from what is asked: the chat template writes a prompt otherwise where "
                "an answer follows; give --chat-template FILE with one that does not"
            )
        return common_prefix(self._rendered_ids(prompt, tools, asks=True), ids)

    def _conversation(self, messages: list[Message], tools: Any) -> Tokens:
        ids = self._rendered_ids(messages, tools)
        spans = [(0, len(ids))] if self.source.learn == "all" else self._spans(messages, tools, ids)
        self._check(messages, self._learned_turns(messages), tools)
        return _labelled(ids, spans)

    def _learned_turns(self, messages: Sequence[Message], asked: int = 0) -> list[int]:
        """Return the numbers of the turns that are learned, of a conversation whose first turns only ask."""
        if self.source.learn == "all":
            return list(range(len(messages)))
        turns = [index for index, message in enumerate(messages) if index >= asked and message["role"] == ASSISTANT]
        return turns[-1:] if self.source.learn == "last" else turns

    def _check(self, messages: Sequence[Message], learned: Sequence[int], tools: Any) -> None:
        """Refuse turns of which the template leaves something out, and those that are not to be learned."""
        self._check_weights(messages, learned)
        check_roles(messages, self.template or "")
        check_said(messages, learned, tools, self._rendered)

    def _check_weights(self, messages: Sequence[Message], learned: Sequence[int]) -> None:
        """Refuse a turn that is not to be learned, or less, and would be."""
        weights = [messages[turn]["weight"] for turn in learned if messages[turn].get("weight", 1) != 1]
        if weights:
            last = "" if self.source.learn == "last" else "give --learn last, if only last turns are, or "
            raise ValueError(
                f"a message of 'weight' {weights[0]} would be learned like the others; {last}leave such rows out"
            )

    def _spans(self, messages: list[Message], tools: Any, ids: list[int]) -> list[tuple[int, int]]:
        """Return where the learned turns begin and end, in tokens."""
        spans = self._marked(messages, tools) if self.marks else self._compared(messages, tools, ids)
        return spans[-1:] if self.source.learn == "last" else spans

    def _marked(self, messages: list[Message], tools: Any) -> list[tuple[int, int]]:
        """Find the tokens of the marked characters. Transformers' mask is wrong where tokens leave out their space."""
        # here, since a program that only makes a plan need not wait for it
        from transformers.utils.chat_template_utils import render_jinja_template

        self._rendered(messages, tools)  # whose errors say what is wrong
        special = self.tokenizer.special_tokens_map
        (text,), (marked,) = render_jinja_template(
            [messages], tools, chat_template=self.template, return_assistant_tokens_mask=True, **special
        )
        places = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        learned: set[int] = set()
        for span in marked:
            inside = {index for index, place in enumerate(places["offset_mapping"]) if _meet(place, span)}
            if not inside and span[0] < span[1]:
                raise ValueError(
                    _uncertain(f"no token has the characters {text[span[0] : span[1]][:40]!r} that it marks")
                )
            learned |= inside
        mask = [index in learned for index in range(len(places["input_ids"]) + 1)]
        edges = [index for index, (last, now) in enumerate(zip([False, *mask], mask, strict=False)) if last != now]
        if not edges:
            raise ValueError(_uncertain("its generation marks mark none of the assistant's turns"))
        return list(zip(edges[::2], edges[1::2], strict=True))

    def _compared(self, messages: list[Message], tools: Any, ids: list[int]) -> list[tuple[int, int]]:
        """Find the assistant's turns by rendering the conversation up to each of them."""
        whole = self._rendered(messages, tools)
        spans = []
        for turn in self._learned_turns(messages):
            begin = self._begin_of(messages, turn, tools, whole)
            end = None if begin is None else self._end_of(messages, turn, tools, begin, whole)
            if begin is None or end is None:
                raise ValueError(_uncertain("it renders earlier turns otherwise than last ones, and has no marks"))
            spans.append((common_prefix(self._split(begin), ids), common_prefix(self._split(whole[:end]), ids)))
        return spans

    def _begin_of(self, messages: list[Message], turn: int, tools: Any, whole: str) -> str | None:
        """Return what stands before a turn, as far as it also does where the answer is still to come."""
        if not turn:
            return ""
        asked = self._rendered(messages[:turn], tools, asks=True)
        if not whole.startswith(asked) and not whole.startswith(self._rendered(messages[:turn], tools)):
            return None
        return whole[: common_prefix(asked, whole)]

    def _end_of(self, messages: list[Message], turn: int, tools: Any, begin: str, whole: str) -> int | None:
        """Return where a turn ends in the rendered conversation; None if that is not certain."""
        if turn == len(messages) - 1:
            return len(whole)
        alone = self._rendered(messages[: turn + 1], tools)
        for closed in (alone, alone.removesuffix(self.tokenizer.eos_token or "")):  # some close a conversation, too
            if whole.startswith(closed) and len(closed) > len(begin):
                return len(closed)
        content = messages[turn].get("content", "")  # an empty thought may stand before the last turn alone
        if not isinstance(content, str) or not content or content not in alone:
            return None
        said = content + alone[alone.rindex(content) + len(content) :]
        return len(begin) + len(said) if whole.startswith(begin + said) else None

    def _rendered(self, messages: Sequence[Message], tools: Any, asks: bool = False) -> str:
        return str(self._applied(messages, tools, tokenize=False, add_generation_prompt=asks))

    def _rendered_ids(self, messages: Sequence[Message], tools: Any, asks: bool = False) -> list[int]:
        return list(self._applied(messages, tools, add_generation_prompt=asks)["input_ids"])

    def _split(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _applied(self, messages: Sequence[Message], tools: Any, tokenize: bool = True, **options: Any) -> Any:
        if self.template is None:
            raise NoTemplate(
                "these are conversations, and the model's tokenizer has no chat template; give --chat-template FILE"
                if self.source.template != "none"
                else "these are conversations, which need a template; leave --template none out"
            )
        if tokenize:
            options["return_dict"] = True
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tools=tools, chat_template=self.template, tokenize=tokenize, **options
            )
        except Exception as error:  # a template is a program and raises what it likes
            raise ValueError(
                f"the chat template refuses a conversation ({first_line(error)}), which begins "
                f"{json.dumps(messages[:1], ensure_ascii=False)[:80]}; correct it, or give --chat-template FILE"
            ) from error


def alpaca_prompt(instruction: str, given: str) -> str:
    """Return an instruction and what it is about, under headings, for models without a chat template."""
    about = f"### Input:\n{given}\n\n" if given else ""
    return f"### Instruction:\n{instruction}\n\n{about}### Response:\n"


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return how many tokens, or characters, both begin with; a token that reaches beyond one of them is in neither."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _template(source: DataSource, tokenizer: Any) -> str | None:
    if source.template == "none":
        return None
    if source.chat_template is None:
        given = tokenizer.chat_template
        return given if given is None or isinstance(given, str) else given.get("default") or next(iter(given.values()))
    try:
        return read_text(Path(source.chat_template))
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or first_line(error)) + "; give a file with a Jinja template"
        raise ValueError(f"--chat-template {source.chat_template}: {reason}") from error


def put_template(chat_template: str | None, folder: Path) -> None:
    """Put the template that a search was given, if any, as it was read, into the place of the model's own."""
    from trainables.models.base_model import CHAT_TEMPLATE  # which brings torch

    if chat_template is not None:
        (folder / CHAT_TEMPLATE).write_bytes(read_text(Path(chat_template)).encode())


def _special_tokens(template: str | None, tokenizer: Any) -> tuple[str, ...]:
    """Return the tokenizer's special tokens that the template writes."""
    if template is None:
        return ()
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    try:
        written = tokenizer.apply_chat_template(list(SAMPLE), chat_template=template, tokenize=False)
    except Exception:  # one that takes no such conversation is refused when it is applied
        written = ""
    return tuple(sorted(token for token in {*added, *tokenizer.all_special_tokens} if token in written + template))


def _labelled(ids: list[int], spans: Sequence[tuple[int, int]]) -> Tokens:
    labels = [IGNORED] * len(ids)
    for begin, end in spans:
        labels[begin:end] = ids[begin:end]
    return Tokens(ids, labels)


def _meet(place: tuple[int, int], span: tuple[int, int]) -> bool:
    """Return True if a token has characters of a span; of one that is all space some tokenizers say only the end."""
    begin, end = place
    return span[0] < end <= span[1] if begin == end else begin < span[1] and span[0] < end


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _uncertain(why: str) -> str:
    return (
        f"what the assistant said cannot be told from the rest by the chat template: {why}; give --learn last, "
        f"--learn all, or --chat-template FILE with one that has {{% generation %}}"
    )
