"""Tokens and labels are those that TRL's SFTTrainer makes of the same rows; where they differ, a test says why."""

import importlib.resources
import json

import pytest
from tokenizers import processors

from trainables.data.corpus import read_documents
from trainables.data.source import DataSource
from trainables.data.templates import IGNORED, Encoder, alpaca_prompt

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's own are not ours to mend

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
WAYS = {"nothing": "$A", "bos": "<s> $A", "both": "<s> $A </s>"}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["the quick fox", " lazy dog\n", "fox é ✓", "ends itself</s>", "x"]


def message(role, content):
    return {"role": role, "content": content}


CHATS = [
    [message("user", "the fox?"), message("assistant", "jumps over")],
    [message("system", "be quick"), message("user", "dog"), message("assistant", "lazy"), message("user", "so"),
     message("assistant", " the é ✓\n")],
    [message("user", "call"), message("assistant", "f(1)"), message("tool", "2"), message("assistant", "it is 2")],
]  # fmt: skip


@pytest.fixture(scope="module", params=WAYS)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(way):
    """A tokenizer that adds to a text what its template says."""
    return make_tokenizer(way)


def make_tokenizer(way, template=None):
    from trainables.pretrain import train_tokenizer

    made = train_tokenizer(["the quick brown fox jumps over the lazy dog " * 20], 300)
    made.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "additional_special_tokens": list(SPECIAL[2:])}
    )
    ids = [(token, made.convert_tokens_to_ids(token)) for token in SPECIAL[:2]]
    made.backend_tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single=WAYS[way], special_tokens=ids)]
    )
    made.chat_template = template
    return made


@pytest.fixture
def ours(tmp_path):
    """A function that returns ids and labels of rows, in their order."""

    def encode(rows, tokenizer, **choices):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        source = DataSource(dataset=str(path), **choices)
        encoder = Encoder(source, tokenizer)
        made = [encoder.tokens(document) for document in read_documents(source)]
        return [(tokens.input_ids, tokens.labels) for tokens in made]

    return encode


@pytest.fixture
def trl(tmp_path, tiny_gpt2):
    """A function that returns ids and labels as TRL's trainer has them."""
    import datasets
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()

    def encode(rows, tokenizer, **options):
        arguments = SFTConfig(
            output_dir=str(tmp_path / "trl"), report_to="none", use_cpu=True, bf16=False, max_length=None, **options
        )
        model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
        trainer = SFTTrainer(
            model=model, args=arguments, processing_class=tokenizer, train_dataset=datasets.Dataset.from_list(rows)
        )
        return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]

    return encode


def ended_once(rows, tokenizer):
    """TRL closes a text that the tokenizer closes as well; here a text ends once, so that the model learns one end."""
    ends = [tokenizer.eos_token_id] * 2
    return [(ids[:-1], labels[:-1]) if ids[-2:] == ends else (ids, labels) for ids, labels in rows]


def test_texts_are_as_in_trl_but_for_a_second_end_token(tokenizer, way, ours, trl):
    rows = [{"text": text} for text in TEXTS]
    theirs = trl(rows, tokenizer)
    assert ours(rows, tokenizer) == ended_once(theirs, tokenizer)
    assert (ended_once(theirs, tokenizer) != theirs) == (way == "both")


def test_plain_pairs_without_template_are_as_in_trl(tokenizer, ours, trl):
    rows = [{"prompt": f"the fox {number}: ", "completion": text} for number, text in enumerate(TEXTS)]
    rows += [{"prompt": "glued", "completion": "together"}, {"prompt": "space ", "completion": " twice"}]
    theirs = trl(rows, tokenizer)
    assert ours(rows, tokenizer, template="none") == ended_once(theirs, tokenizer)


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_conversational_pairs_are_as_in_trl(template, way, ours, trl):
    tokenizer = make_tokenizer(way, template)
    rows = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in CHATS]
    assert ours(rows, tokenizer) == trl(rows, tokenizer)


def test_of_a_completion_of_several_turns_what_others_than_the_assistant_say_is_learned_by_trl_alone(way, ours, trl):
    # nobody wants a model that answers its own calls in place of the tool
    tokenizer = make_tokenizer(way, CHATML)
    rows = [{"prompt": CHATS[2][:1], "completion": CHATS[2][1:]}]
    ((ids, labels),), ((their_ids, their_labels),) = ours(rows, tokenizer), trl(rows, tokenizer)
    assert ids == their_ids
    begin = next(place for place, label in enumerate(their_labels) if label != IGNORED)
    assert their_labels[begin:] == ids[begin:]
    assert labels[:begin] == their_labels[:begin]
    theirs_alone = [theirs for mine, theirs in zip(labels, their_labels, strict=True) if mine != theirs]
    assert tokenizer.decode(theirs_alone) == "<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n"


def test_conversations_are_as_in_trl_with_the_labels_of_the_templates_marks(way, ours, trl):
    tokenizer = make_tokenizer(way, MARKED)
    rows = [{"messages": chat} for chat in CHATS]
    assert ours(rows, tokenizer) == trl(rows, tokenizer, assistant_only_loss=True)
    assert ours(rows, tokenizer, learn="all") == trl(rows, tokenizer)


def test_conversations_without_marks_have_trls_ids_and_learn_what_the_assistant_says(way, ours, trl):
    tokenizer = make_tokenizer(way, CHATML)
    rows = [{"messages": chat} for chat in CHATS]
    made = ours(rows, tokenizer)
    assert [ids for ids, _ in made] == [ids for ids, _ in trl(rows, tokenizer)]
    learned = [tokenizer.decode([label for label in labels if label != IGNORED]) for _, labels in made]
    assert learned == [
        "".join(f"{turn['content']}<|im_end|>\n" for turn in chat if turn["role"] == "assistant") for chat in CHATS
    ]


def test_a_null_content_beside_a_call_is_no_content_as_in_trl(way, ours, trl):
    template = (importlib.resources.files("trl") / "chat_templates" / "qwen2_5.jinja").read_text()
    calls = [{"type": "function", "function": {"name": "jump", "arguments": {"far": 2}}}]
    chat = [CHATS[0][0], {"role": "assistant", "content": None, "tool_calls": calls}, *CHATS[2][2:]]
    tokenizer = make_tokenizer(way, template)
    made = ours([{"messages": chat}], tokenizer)
    assert [ids for ids, _ in made] == [ids for ids, _ in trl([{"messages": chat}], tokenizer)]
    assert "None" not in tokenizer.decode(made[0][0])


def test_sharegpt_is_as_in_trl_and_its_names_of_roles_become_those_of_templates(ours, trl):
    tokenizer = make_tokenizer("bos", MARKED)
    rows = [{"conversations": [{"from": turn["role"], "value": turn["content"]} for turn in chat]} for chat in CHATS]
    as_messages = ours([{"messages": chat} for chat in CHATS], tokenizer)
    assert ours(rows, tokenizer) == as_messages  # TRL has no labels of marks for this format
    assert [ids for ids, _ in as_messages] == [ids for ids, _ in trl(rows, tokenizer)]
    names = {"user": "human", "assistant": "gpt"}  # TRL leaves them, and a template writes roles that no model knows
    for row in rows:
        for turn in row["conversations"]:
            turn["from"] = names.get(turn["from"], turn["from"])
    assert ours(rows, tokenizer) == as_messages
    assert [ids for ids, _ in as_messages] != [ids for ids, _ in trl(rows, tokenizer)]


def test_a_prompt_that_was_put_into_a_template_by_hand_is_as_in_trl_with_one_begin_token(way, ours, trl):
    tokenizer = make_tokenizer(way, CHATML)
    rows = [{"prompt": f"<|im_start|>user\n{number}<|im_end|>\n<|im_start|>assistant\n", "completion": "fox<|im_end|>"}
            for number in range(3)]  # fmt: skip
    assert ours(rows, tokenizer) == ended_once(trl(rows, tokenizer), tokenizer)
    begun = [{**row, "prompt": f"<s>{row['prompt']}"} for row in rows]
    theirs = ended_once(trl(begun, tokenizer), tokenizer)
    twice = way != "nothing"  # no model has seen two begin tokens, so that of the tokenizer is left out
    assert ours(begun, tokenizer) == [(ids[twice:], labels[twice:]) for ids, labels in theirs]
    assert all(ids[:1] == [tokenizer.bos_token_id] != ids[1:2] for ids, _ in ours(begun, tokenizer))


def test_alpaca_is_as_its_rows_are_written_as_pairs(tokenizer, way, ours, trl):
    rows = [{"instruction": f"jump {text}", "input": given, "output": "over " + text}
            for text, given in zip(TEXTS, ["", "dog", "", "é", "x"], strict=True)]  # fmt: skip
    plain = [{"prompt": alpaca_prompt(row["instruction"], row["input"]), "completion": row["output"]} for row in rows]
    assert ours(rows, tokenizer) == ended_once(trl(plain, tokenizer), tokenizer)
    chatting = make_tokenizer(way, CHATML)
    asked = ["\n\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows]
    pairs = [{"prompt": [message("user", text)], "completion": [message("assistant", row["output"])]}
             for text, row in zip(asked, rows, strict=True)]  # fmt: skip
    assert ours(rows, chatting) == trl(pairs, chatting)


def test_plain_pairs_are_put_into_the_template_where_trl_leaves_them_as_they_are(ours, trl):
    # what an instruct model is given without its template is nothing that it was ever given
    tokenizer = make_tokenizer("bos", CHATML)
    plain = [{"prompt": "the fox?", "completion": "jumps"}]
    chat = [{"prompt": [message("user", "the fox?")], "completion": [message("assistant", "jumps")]}]
    assert ours(plain, tokenizer) == trl(chat, tokenizer) != trl(plain, tokenizer)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3", "gemma", "phi3", "smolvlm", "deepseek_r1_distill"])
def test_templates_of_known_models_give_trls_ids(name, ours, trl):
    template = (importlib.resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer = make_tokenizer("bos", template)
    chats = [CHATS[0], CHATS[0] + CHATS[0][:1] + [message("assistant", "lazy dog")]]
    if name == "smolvlm":
        chats = [[message(t["role"], [{"type": "text", "text": t["content"]}]) for t in chat] for chat in chats]
    rows = [{"messages": chat} for chat in chats]
    made = ours(rows, tokenizer)
    assert [ids for ids, _ in made] == [ids for ids, _ in trl(rows, tokenizer)]
    for (_, labels), answers in zip(made, (["jumps over"], ["jumps over", "lazy dog"]), strict=True):
        learned = tokenizer.decode([label for label in labels if label != IGNORED])
        assert all(learned.count(answer) == 1 for answer in answers)
        assert "the fox?" not in learned
        assert "user" not in learned
