"""What columns mean is recognised by their names, or said by a flag, or refused."""

import json

import pytest

from trainables.data.corpus import corpus_sha256, read_corpus, read_documents
from trainables.data.formats import Document
from trainables.data.source import DataSource

USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
CHAT = Document(json.dumps([USER]), json.dumps([ANSWER]), "chat")
SYSTEM = {"role": "system", "content": "Be brief."}
CALLS = [{"function": {"name": "f", "arguments": "{}"}}]
BRIEF = Document(json.dumps([SYSTEM, USER]), json.dumps([ANSWER]), "chat")


@pytest.fixture
def table(tmp_path):
    """A function that writes rows to a file and returns its name."""

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("row", "document"),
    [
        ({"text": "So."}, Document("", "So.")),
        ({"prompt": "Why?", "completion": "So."}, Document("Why?", "So.", "pair")),
        ({"prompt": [USER], "completion": [ANSWER]}, Document(json.dumps([USER]), json.dumps([ANSWER]), "turns")),
        (
            {"prompt": json.dumps([USER]), "completion": f" {json.dumps([ANSWER])}"},
            Document(json.dumps([USER]), json.dumps([ANSWER]), "turns"),
        ),
        (
            {"prompt": "Who?", "completion": '[{"name": "Ann", "role": "cook"}]'},
            Document("Who?", '[{"name": "Ann", "role": "cook"}]', "pair"),
        ),
        ({"prompt": "Who?", "completion": "[{'role'"}, Document("Who?", "[{'role'", "pair")),
        ({"messages": [USER, ANSWER]}, CHAT),
        ({"messages": json.dumps([USER, ANSWER])}, CHAT),
        ({"messages": [{**USER, "name": None}, ANSWER]}, CHAT),
        (
            {"messages": [USER, ANSWER], "tools": [{"name": "f"}]},
            Document(CHAT.prompt, CHAT.text, "chat", '[{"name": "f"}]'),
        ),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, CHAT),
        ({"conversations": [USER, ANSWER]}, CHAT),
        ({"conversations": [USER, ANSWER], "system": "Be brief."}, BRIEF),
        ({"messages": [USER, ANSWER], "system_prompt": "Be brief."}, BRIEF),
        ({"messages": [SYSTEM, USER, ANSWER], "system": "Be brief."}, BRIEF),
        ({"messages": [USER, ANSWER], "system": " ", "history": [["a", "b"]], "chat_template_kwargs": {}}, CHAT),
        (
            {"prompt": [USER], "completion": [ANSWER], "system": "Be brief."},
            Document(json.dumps([SYSTEM, USER]), json.dumps([ANSWER]), "turns"),
        ),
        (
            {"prompt": "Why?", "completion": "So.", "system": "Be brief."},
            Document("Why?", "So.", "pair", system="Be brief."),
        ),
        (
            {"instruction": "Why?", "output": "So.", "system": "Be brief.", "history": []},
            Document('["Why?", ""]', "So.", "alpaca", system="Be brief."),
        ),
        ({"text": "So.", "system": "x", "history": [["a", "b"]], "tools": "x"}, Document("", "So.")),
        ({"messages": [{**USER, "from": "human", "value": "Why?"}, {**ANSWER, "value": None}]}, CHAT),
        ({"messages": [USER, ANSWER], "tools": "[]"}, CHAT),
        ({"messages": [USER, ANSWER], "tools": ""}, CHAT),
        ({"messages": [USER, ANSWER], "tools": " [ ] "}, CHAT),
        ({"messages": [USER, ANSWER], "tools": "null", "functions": []}, CHAT),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": CALLS, "name": None}]},
            Document(CHAT.prompt, json.dumps([{"role": "assistant", "tool_calls": CALLS}]), "chat"),
        ),
        ({"messages": [{"role": "User", "content": "Why?"}, {"role": "Assistant", "content": "So."}]}, CHAT),
        ({"instruction": "Why?", "output": "So.", "input": ""}, Document('["Why?", ""]', "So.", "alpaca")),
        ({"instruction": "Why?", "output": "So."}, Document('["Why?", ""]', "So.", "alpaca")),
        ({"instruction": "Why?", "output": "So.", "input": "x"}, Document('["Why?", "x"]', "So.", "alpaca")),
    ],
)
def test_a_format_is_recognised_by_its_columns(row, document, table):
    assert read_documents(DataSource(dataset=table({**row, "id": 7}))) == [document]


def test_two_formats_that_fit_are_refused_by_naming_the_flag_and_a_flag_decides(table):
    path = table({"text": "all", "instruction": "Why?", "output": "So."})
    with pytest.raises(ValueError, match="fit text and alpaca; say which with --data-format text or alpaca"):
        read_documents(DataSource(dataset=path))
    assert read_documents(DataSource(dataset=path, text_column="text")) == [Document("", "all")]
    assert read_documents(DataSource(dataset=path, data_format="alpaca"))[0].form == "alpaca"
    pairs = DataSource(dataset=path, prompt_column="text", completion_column="output")
    assert read_documents(pairs) == [Document("all", "So.", "pair")]


def test_a_column_of_conversations_may_have_any_name(table):
    assert read_documents(DataSource(dataset=table({"chat": [USER, ANSWER]}), messages_column="chat")) == [CHAT]


def test_no_format_names_the_columns_and_the_flags(table):
    with pytest.raises(ValueError, match="it has question, answer: name what is to be learned with --text-column"):
        read_documents(DataSource(dataset=table({"question": "a", "answer": "b"})))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": [USER, {"role": "assistant"}]}, "row 2 has no message with role and content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]},
            "row 2 has a content that is no text, {'type': 'image_url'",
        ),
        ({"messages": "Why? So."}, "row 2 has no list of messages but Why"),
        ({"messages": [1]}, "row 2 has no message with role and content but 1"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "row 2 has no message with role and content"),
        (
            {"messages": [USER, {**ANSWER, "value": 0.5}]},
            "row 2 has a message with 'content' 'So.' and 'value' '0.5', which differ; drop one",
        ),
        (
            {"messages": [{**USER, "from": "gpt"}, ANSWER]},
            "row 2 has a message with 'role' 'user' and 'from' 'gpt', which differ; drop one",
        ),
        ({"messages": [USER, {"role": "assistant", "function_call": {"name": "f"}}]}, "row 2 has a 'function_call'"),
        ({"messages": [USER, {"from": "function_call", "value": "{}"}]}, "'function_call', .*write it as 'tool_calls'"),
        ({"messages": [USER, ANSWER], "tools": "[" * 99_999}, r"row 2 has no JSON in 'tools' but \[\[\["),
    ],
)
def test_a_row_that_is_no_conversation_is_named(row, problem, table):
    with pytest.raises(ValueError, match=problem):
        read_documents(DataSource(dataset=table({"messages": [USER, ANSWER]}, row)))


def test_conversations_that_begin_with_the_same_greeting_are_different_prompts(table):
    greeting = {"role": "assistant", "content": "Hello!"}
    chats = [[greeting, {"role": "user", "content": text}, ANSWER] for text in ("Why?", "How?")]
    first, second = read_documents(DataSource(dataset=table(*({"messages": chat} for chat in chats))))
    assert [json.loads(first.prompt), json.loads(second.prompt)] == [chat[:2] for chat in chats]
    assert json.loads(first.text) == [ANSWER]
    (alone,) = read_documents(DataSource(dataset=table({"messages": [greeting, USER]})))
    assert json.loads(alone.text) == [greeting, USER]


def test_a_name_with_a_space_that_nobody_sees_is_shown_in_quotes(table):
    with pytest.raises(ValueError, match=r"it has prompt, ' completion': name what"):
        read_documents(DataSource(dataset=table({"prompt": "a", " completion": "b"})))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "Why?", "output": "So.", "history": [["a", "b"]]}, "'history', which would be lost; write"),
        ({"prompt": "Why?", "completion": "So.", "tools": "[1]"}, "'tools', which would be lost; write"),
        ({"prompt": [USER], "completion": [ANSWER], "history": [["a", "b"]]}, "'history', which would be lost; write"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"enable_thinking": False}},
         "'chat_template_kwargs', which would be lost; drop the column"),
        ({"messages": [USER, ANSWER], "functions": [{"name": "f"}]},
         "'functions', which would be lost; call the column 'tools'"),
        ({"conversations": [SYSTEM, USER, ANSWER], "system": "Be long."}, "one system text in its messages"),
        ({"conversations": [USER, ANSWER], "system": ["x"]}, r"no text \(system\) but \['x'\]; make it text"),
    ],
)  # fmt: skip
def test_a_column_that_would_be_lost_beside_a_conversation_is_refused_by_its_name(row, problem, table):
    with pytest.raises(ValueError, match=f"rows.jsonl: row 1 has .*{problem}"):
        read_documents(DataSource(dataset=table(row)))


def test_rows_that_differ_in_what_the_system_says_are_other_texts(table):
    rows = [{"prompt": "Why?", "completion": "So.", "system": system} for system in ("", "Be brief.", "Be long.")]
    documents = read_documents(DataSource(dataset=table(*rows)))
    assert len({corpus_sha256([document]) for document in documents}) == 3


@pytest.mark.parametrize("prompt", [[USER], json.dumps([USER]), str([USER])])
def test_messages_beside_text_are_refused(prompt, table):
    with pytest.raises(ValueError, match="row 1 has messages in one of its two columns and text in the other"):
        read_documents(DataSource(dataset=table({"prompt": prompt, "completion": "So."})))


def test_a_pair_of_messages_as_python_writes_lists_is_refused(table):
    with pytest.raises(ValueError, match=r"row 1 has no list of messages but \[{'role': 'user'"):
        read_documents(DataSource(dataset=table({"prompt": str([USER]), "completion": str([ANSWER])})))


def test_what_is_left_out_is_counted_by_its_reason(table):
    rows = [{"messages": [USER, ANSWER]}] * 3 + [{"messages": [USER]}, {"messages": None}, {"id": 1}]
    rows.append({"messages": [USER, {"role": "assistant", "content": ""}]})
    corpus = read_corpus(DataSource(dataset=table(*rows)))
    assert corpus.documents == [CHAT]
    assert corpus.rows == 7
    assert corpus.left_out == {
        "no turn of an assistant": 1, "null in 'messages'": 2, "no text to learn": 1, "a row again": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "choices",
    [
        {"text_column": "a", "prompt_column": "b", "completion_column": "c"},
        {"messages_column": "a", "text_column": "b"},
        {"text_column": "a", "data_format": "alpaca"},
        {"chat_template": "a", "template": "none"},
        {"dataset": "a.txt", "text_column": "b"},
        {"dataset": "pydoc", "learn": "all"},
        {"dataset": "pydoc", "validation_dataset": "a"},
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices):
    with pytest.raises(ValueError, match="--"):
        DataSource(**{"dataset": "a.jsonl", **choices})


def test_a_plan_that_was_saved_with_the_text_column_beside_prompts_is_still_one(table):
    path = table({"text": "x", "a": "Why?", "b": "So."})
    source = DataSource(dataset=path, text_column="text", prompt_column="a", completion_column="b")
    assert read_documents(source) == [Document("Why?", "So.", "pair")]
