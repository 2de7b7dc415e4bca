"""What of a conversation is learned is certain, or the data are refused."""

import importlib.resources
import json

import pytest
from tokenizers import processors

from tests.trainables.test_trl import CHATML, CHATS, MARKED, make_tokenizer, message
from trainables.data.corpus import read_documents
from trainables.data.formats import Document
from trainables.data.lengths import marked
from trainables.data.source import DataSource
from trainables.data.splits import Example
from trainables.data.templates import Encoder, put_template

QUESTION, THOUGHT = message("user", "fox?"), message("assistant", "<think>\nhm\n</think>\n\njumps")


@pytest.fixture
def shown(tmp_path):
    """A function that returns a row's text with brackets around what is learned."""

    def show(row, model_template, way="nothing", **choices):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row))
        source, tokenizer = DataSource(dataset=str(path), **choices), make_tokenizer(way, model_template)
        tokens = Encoder(source, tokenizer).tokens(read_documents(source)[0])
        return marked(Example(tuple(tokens.input_ids), tuple(tokens.labels)), tokenizer)

    return show


def published(name):
    return (importlib.resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("learn", "text"),
    [
        ("assistant", "<|im_start|>user\nthe fox?<|im_end|>\n<|im_start|>assistant\n⟦jumps over<|im_end|>\n⟧"
         "<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n⟦dog<|im_end|>\n⟧"),
        ("last", "<|im_start|>user\nthe fox?<|im_end|>\n<|im_start|>assistant\njumps over<|im_end|>\n"
         "<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n⟦dog<|im_end|>\n⟧"),
        ("all", "⟦<|im_start|>user\nthe fox?<|im_end|>\n<|im_start|>assistant\njumps over<|im_end|>\n"
         "<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\ndog<|im_end|>\n⟧"),
    ],
)  # fmt: skip
def test_what_is_learned_of_a_conversation(learn, text, shown):
    row = {"messages": [*CHATS[0], message("user", "so"), message("assistant", "dog")]}
    assert shown(row, CHATML, learn=learn) == text
    begun = text.replace("⟦<", "⟦<s><") if learn == "all" else f"<s>{text}"
    by_marks = begun if learn == "all" else begun.replace("\n⟧", "⟧\n")  # which leave out the line feed
    assert shown(row, MARKED, learn=learn) == by_marks


def test_an_empty_thought_before_the_last_turn_alone_is_no_doubt(shown):
    row = {"messages": [QUESTION, message("assistant", "jumps"), message("user", "so"), message("assistant", "dog")]}
    assert shown(row, published("qwen3")) == (
        "<|im_start|>user\nfox?<|im_end|>\n<|im_start|>assistant\n⟦jumps<|im_end|>\n⟧"
        "<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\ndog<|im_end|>\n⟧"
    )


def test_a_template_that_drops_earlier_thoughts_is_refused_unless_only_the_last_turn_is_learned(shown):
    row = {"messages": [QUESTION, THOUGHT, message("user", "so"), THOUGHT]}
    with pytest.raises(ValueError, match=r"cannot be told from the rest by the chat template.*--learn last"):
        shown(row, published("qwen3"))
    assert shown(row, published("qwen3"), learn="last").endswith("⟦<think>\nhm\n</think>\n\njumps<|im_end|>\n⟧")
    assert shown({"messages": [QUESTION, THOUGHT]}, published("qwen3")).endswith(
        "⟦<think>\nhm\n</think>\n\njumps<|im_end|>\n⟧"
    )


@pytest.mark.parametrize(
    ("template", "answer", "lost"),
    [
        ("deepseek_r1_distill", "<think>\nhm, 4\n</think>\n\nfox 4", "hm, 4"),
        ("deepseek_r1_distill", "<think>\n4\n</think>\n\nfox 4", "4"),  # which stands in the answer, too
        (None, {"reasoning_content": "hm, 4"}, "hm, 4"),
        (None, {"thinking": "fox 4"}, "fox 4"),  # as the answer
        ("gemma4", {"reasoning": "hm, 4"}, "hm, 4"),
    ],
)
@pytest.mark.parametrize("as_pair", [True, False])
def test_a_thought_that_the_template_leaves_out_is_refused(template, answer, lost, as_pair, shown):
    answer = message("assistant", answer) if isinstance(answer, str) else message("assistant", "fox 4") | answer
    row = {"prompt": [QUESTION], "completion": [answer]} if as_pair else {"messages": [QUESTION, answer]}
    with pytest.raises(ValueError, match=f"leaves out what is to be learned, '{lost}'; give --chat-template FILE"):
        shown(row, published(template) if template else CHATML)


def test_what_is_not_learned_may_be_left_out(shown):
    row = {"messages": [QUESTION, THOUGHT, message("user", "so"), message("assistant", "dog")]}
    assert shown(row, published("deepseek_r1_distill"), learn="last").endswith("⟦dog<｜end▁of▁sentence｜>⟧")
    with pytest.raises(ValueError, match="leaves out what is to be learned, 'hm'"):
        shown(row, published("deepseek_r1_distill"), learn="all")


def test_a_thought_that_is_given_twice_is_one_thought_and_spaces_around_it_are_the_templates(shown):
    answer = message("assistant", " jumps\n") | {"reasoning": "hm\n", "reasoning_content": "hm\n"}
    text = "<|im_start|>assistant\n⟦<think>\nhm\n</think>\n\njumps<|im_end|>\n⟧"
    assert shown({"messages": [QUESTION, answer]}, published("qwen3")).endswith(text.replace("jumps", " jumps\n"))
    parted = message("assistant", "<think>hm</think>jumps")
    assert shown({"messages": [QUESTION, parted]}, published("qwen3")).endswith(text)


SYSTEM_LAST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% if loop.last and messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] }}\n\n{% endif %}{{ m['content'] }}[/INST]{% elif m['role'] == 'assistant' %}"
    " {{ m['content'] }}</s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [message("system", "so"), QUESTION], "completion": [message("assistant", "dog")]},
        {"prompt": "fox?", "completion": "dog", "system": "so"},
    ],
)
def test_a_template_that_writes_the_system_before_the_last_turn_alone_does_not_make_a_prompt_be_learned(row, shown):
    with pytest.raises(ValueError, match=r"cannot be told from what is asked: the chat .*; give --chat-template"):
        shown(row, SYSTEM_LAST)
    with pytest.raises(ValueError, match="leaves out what is to be learned, 'so'"):
        shown(row, SYSTEM_LAST, learn="all")
    assert shown({"prompt": "fox?", "completion": "dog"}, SYSTEM_LAST) == "[INST] fox?[/INST]⟦ dog</s>⟧"


def test_a_turn_of_weight_0_is_not_learned_or_refused(shown):
    first, last = message("assistant", "jumps") | {"weight": 0}, message("assistant", "dog") | {"weight": 1}
    row = {"messages": [QUESTION, first, message("user", "so"), last]}
    with pytest.raises(
        ValueError, match="a message of 'weight' 0 would be learned like the others; give --learn last,"
    ):
        shown(row, CHATML)
    assert shown(row, CHATML, learn="last").count("⟦") == 1
    with pytest.raises(ValueError, match="would be learned like the others; leave such rows out"):
        shown({"prompt": [QUESTION], "completion": [first]}, CHATML, learn="last")


def test_a_role_that_the_template_does_not_name_is_refused(shown):
    row = {"messages": [QUESTION, message("bing", "x"), message("assistant", "dog")]}
    with pytest.raises(
        ValueError, match="the role 'bing' is none of system, user, assistant, tool, and the chat templa"
    ):
        shown(row, CHATML)
    assert "bing" in shown(row, "{% if x == 'bing' %}{% endif %}" + CHATML)
    with pytest.raises(ValueError, match="the role 'function' is none of"):
        shown({"messages": [QUESTION, message("function", "x"), message("assistant", "dog")]},
              "{% if tools %}{{ tools[0]['function'] }}{% endif %}" + CHATML)  # fmt: skip


def test_a_conversation_without_an_answer_is_learned_if_all_is(shown):
    assert shown({"messages": [QUESTION]}, CHATML, learn="all") == "⟦<|im_start|>user\nfox?<|im_end|>\n⟧"


def test_a_template_that_refuses_a_conversation_or_does_not_exist_is_one_line(shown, tmp_path):
    with pytest.raises(ValueError, match=r"the chat template refuses a conversation .*system"):
        shown({"messages": [message("system", "x"), *CHATS[0]]}, "{{ raise_exception('no system role') }}")
    with pytest.raises(ValueError, match="has no chat template; give --chat-template FILE"):
        shown({"messages": CHATS[0]}, None)
    with pytest.raises(ValueError, match="leave --template none out"):
        shown({"messages": CHATS[0]}, CHATML, template="none")
    with pytest.raises(ValueError, match=r"--chat-template absent\.jinja: .*give a file with a Jinja template"):
        shown({"messages": CHATS[0]}, None, chat_template="absent.jinja")


def test_a_template_of_a_file_is_used_in_place_of_the_models(shown, tmp_path):
    (tmp_path / "own.jinja").write_text("{% for m in messages %}{{ m['content'] }}</s>{% endfor %}")
    text = shown({"messages": CHATS[0]}, CHATML, chat_template=str(tmp_path / "own.jinja"))
    assert text == "the fox?</s>⟦jumps over</s>⟧"


def test_a_template_is_handed_out_as_it_was_read(tmp_path):
    content = b"\xef\xbb\xbf{% for m in messages %}{{ m['content'] }}\r\n{% endfor %}"
    (tmp_path / "own.jinja").write_bytes(content)
    put_template(str(tmp_path / "own.jinja"), tmp_path)
    assert (tmp_path / "chat_template.jinja").read_bytes() == content[3:]
    put_template(None, tmp_path / "absent")


@pytest.mark.parametrize("trimmed", [True, False])
@pytest.mark.parametrize("begun", ["", "<s>"])
def test_marks_are_where_they_are_whether_a_tokenizer_counts_spaces_or_not(trimmed, begun):
    template = begun + (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{% generation %} {{ m['content'] }} {% endgeneration %}{% else %} {{ m['content'] }}{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer("nothing", template)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trimmed)
    chat = [message("assistant", "the"), message("user", "fox"), message("assistant", "é"), message("user", "dog")]
    documents = Document(json.dumps(chat[:1]), json.dumps(chat[1:]), "chat")
    tokens = Encoder(DataSource(dataset="a.jsonl"), tokenizer).tokens(documents)
    text = marked(Example(tuple(tokens.input_ids), tuple(tokens.labels)), tokenizer)
    assert text == f"{begun}⟦ the ⟧ fox⟦ é ⟧ dog"


def test_marks_without_the_places_of_tokens_are_not_relied_on(monkeypatch, shown):
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.is_fast", False)
    assert shown({"messages": CHATS[0]}, MARKED).endswith("⟦jumps over<|im_end|>\n⟧")


def test_marks_that_mark_nothing_are_refused(shown):
    with pytest.raises(ValueError, match="its generation marks mark none"):
        shown({"messages": CHATS[0]}, "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'x' %}"
              "{% generation %}{{ m['content'] }}{% endgeneration %}{% endif %}{% endfor %}")  # fmt: skip


@pytest.mark.parametrize("row", [{"prompt": "fox?", "completion": "dog"}, {"instruction": "fox?", "output": "dog"}])
def test_what_the_system_says_beside_a_pair_is_its_first_turn_or_refused(row, shown):
    row = {**row, "system": "so"}
    assert shown(row, CHATML) == (
        "<|im_start|>system\nso<|im_end|>\n<|im_start|>user\nfox?<|im_end|>\n<|im_start|>assistant\n⟦dog<|im_end|>\n⟧"
    )
    with pytest.raises(ValueError, match="what 'system' says needs a chat template, and there is none; drop the col"):
        shown(row, None)
    by_hand = {"prompt": "<|im_start|>fox?", "completion": "dog", "system": "so"}
    with pytest.raises(ValueError, match="and its prompt was put into one by hand"):
        shown(by_hand, CHATML)


def test_tools_reach_the_template(shown):
    template = "{% if tools %}{{ tools[0]['name'] }}{% endif %}" + CHATML
    assert shown({"messages": CHATS[0], "tools": [{"name": "quick"}]}, template).startswith("quick<|im_start|>")


def test_a_template_that_leaves_out_tools_is_refused(shown):
    row = {
        "messages": CHATS[0],
        "tools": [{"type": "function", "function": {"name": "fox"}}],
    }  # which the chat has, too
    with pytest.raises(ValueError, match="leaves out the row's 'tools'; give --chat-template FILE with one that knows"):
        shown(row, CHATML)
    assert '"fox"' in shown(row, published("qwen2_5"))


def test_one_call_of_two_that_a_template_leaves_out_is_refused(shown):
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in ("jump", "run")]
    row = {"messages": [QUESTION, {"role": "assistant", "content": None, "tool_calls": calls}]}
    with pytest.raises(ValueError, match="leaves out that the assistant calls run;"):
        shown(row, CHATML.replace("m['content']", "(m['content'] or m['tool_calls'][0]['function']['name'])"))
    assert shown(row, published("qwen2_5")).count("</tool_call>") == 2


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5"])
def test_a_content_in_parts_is_the_same_text_whether_a_template_knows_parts_or_not(shown, name):
    def said(text, *more):
        return [{"type": "text", "text": part} for part in (text, *more)]

    row = {"messages": [message("user", said("fo", "x?")), message("assistant", said("jumps"))]}
    text = shown(row, published(name))
    assert "fox?" in text
    assert "⟦jumps" in text.replace("⟦ ", "⟦")
    assert "type" not in text


def test_a_template_that_leaves_out_what_is_called_is_refused(shown):
    calling = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "jump", "arguments": "{}"}}]}
    row = {"messages": [QUESTION, calling, message("tool", "2"), message("assistant", "dog")]}
    with pytest.raises(ValueError, match=r"leaves out that the assistant calls jump; give --chat-template FILE"):
        shown(row, CHATML)
    with pytest.raises(ValueError, match=r"leaves out that the assistant calls jump; give --chat-template FILE"):
        shown({"messages": [message("user", "jump!"), calling, message("assistant", "dog")]}, CHATML)
    called = "(m['content'] or m['tool_calls'][0]['function']['name'])"
    writing = CHATML.replace("m['content']", called)
    assert "⟦jump<|im_end|>\n⟧" in shown(row, writing)


def test_a_completion_of_several_turns_is_learned_where_the_assistant_speaks(shown):
    row = {"prompt": CHATS[2][:1], "completion": CHATS[2][1:]}
    assert shown(row, CHATML) == (
        "<|im_start|>user\ncall<|im_end|>\n<|im_start|>assistant\n⟦f(1)<|im_end|>\n⟧<|im_start|>tool\n2<|im_end|>\n"
        "<|im_start|>assistant\n⟦it is 2<|im_end|>\n⟧"
    )
