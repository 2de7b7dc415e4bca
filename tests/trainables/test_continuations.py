"""What is written after prompts of the test split: the most likely tokens, by a base that stays what it is."""

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from strategies import RankAllocation
from trainables.adapters import peft_adapter
from trainables.data.splits import IGNORED, Example, Splits
from trainables.models.base_model import load
from trainables.postprocess import continuations
from trainables.postprocess.continuations import NEW_TOKENS, chosen, continued, prompt_of

PAIR = Example((5, 6, 7, 8, 9, 10), (IGNORED, IGNORED, 7, 8, IGNORED, 10), 1)
TEXT = Example((11, 12, 13, 14, 15), (11, 12, 13, 14, 15), 2)


def test_a_prompt_is_what_comes_before_the_first_learned_token_or_else_the_first_half():
    pair, text = prompt_of(PAIR), prompt_of(TEXT)
    assert (pair.ids, pair.rest, pair.halved) == ((5, 6), (7, 8), False)
    assert (text.ids, text.rest, text.halved) == ((11, 12), (13, 14, 15), True)
    one = Example((11, 12, 13), (IGNORED, IGNORED, IGNORED), 3)
    assert prompt_of(one).ids == (11,)


def test_prompts_are_of_different_documents_in_the_order_of_the_split():
    rows = [Example((number, *range(9)), (number, *range(9)), number % 7) for number in range(20)]
    prompts, most = chosen(rows, None)
    assert [prompt.ids[0] for prompt in prompts] == [0, 1, 2, 3, 4]
    assert most == NEW_TOKENS


def test_prompts_that_leave_room_come_first_and_no_more_is_written_than_the_model_takes():
    def row(length, document):
        return Example(tuple(range(length)), (IGNORED,) * (length - 1) + (1,), document)

    long, short = [row(59, number) for number in range(9)], [row(9, 10 + number) for number in range(4)]
    prompts, most = chosen([*long, *short], 64)
    assert ([len(prompt.ids) for prompt in prompts], most) == ([8, 8, 8, 8, 58], 6)
    with pytest.raises(ValueError, match="no prompt of the test split leaves room"):
        chosen([row(66, 0)], 64)


@pytest.fixture
def adapter(tiny_gpt2, tmp_path):
    """Folder of an adapter that makes its base write something else."""
    base = load(str(tiny_gpt2))
    ranks = {site.name: 2 for site in base.sites}
    allocation = RankAllocation(ranks, sum(2 * site.cost for site in base.sites))
    wrapped = peft_adapter.attach(base.model, allocation, dict.fromkeys(ranks, 8.0))
    torch.manual_seed(0)
    trained = peft_adapter.read(wrapped)
    with torch.no_grad():
        for _, b in trained.factors.values():
            b.normal_(std=0.5)
    trained.save(tmp_path / "adapter")
    peft_adapter.detach(wrapped)
    return tmp_path / "adapter"


@pytest.fixture
def prompts(workload):
    """A workload whose test split has prompts of three lengths."""
    rows = [
        Example(tuple(range(9, 9 + size)), (IGNORED,) * (size - 2) + (7 + size, 8 + size), size) for size in (5, 9, 12)
    ]
    return replace(workload, splits=Splits((), (), tuple(rows))), [row.input_ids[:-2] for row in rows]


def most_likely(model, ids, count):
    """The next tokens, each by a pass over all that is before it."""
    ids = list(ids)
    begin = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    end = next((at for at in range(begin, len(ids)) if ids[at] == 0), len(ids))  # 0 is the end token
    return ids[begin:end]


def test_each_token_is_the_most_likely_one_whether_rows_are_padded_or_alone(prompts, adapter, monkeypatch):
    workload, beginnings = prompts
    base = load(workload.model)
    expected = {"base": [most_likely(base.model, ids, NEW_TOKENS) for ids in beginnings]}
    with peft_adapter.restored(base.model):
        model = peft_adapter.loaded(base.model, adapter).eval()
        expected["adapter"] = [most_likely(model, ids, NEW_TOKENS) for ids in beginnings]
    assert expected["base"] != expected["adapter"]
    assert continuations._may_be_padded(base, beginnings)
    for padded in (True, False):
        monkeypatch.setattr(continuations, "_may_be_padded", lambda base, rows, padded=padded: padded)
        texts, about = continued(workload, {"base": None, "adapter": adapter})
        for name, rows in expected.items():
            assert [text[name] for text in texts] == [base.tokenizer.decode(ids) for ids in rows]
    assert [text["prompt"] for text in texts] == [base.tokenizer.decode(list(ids)) for ids in beginnings]
    assert texts[0]["the data"] == base.tokenizer.decode([12, 13])
    assert about == (
        f"Each prompt is what comes before the first learned token of a row; at most {NEW_TOKENS} tokens follow, each "
        f"the most likely one."
    )


def test_a_model_that_heeds_no_mask_gets_its_rows_one_by_one(prompts, monkeypatch):
    base = load(prompts[0].model)
    padded = continuations._padded

    def unmasked(rows, pad_id, device):
        inputs = padded(rows, pad_id, device)
        return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}

    monkeypatch.setattr(continuations, "_padded", unmasked)
    assert not continuations._may_be_padded(base, prompts[1])
    assert continuations._may_be_padded(base, prompts[1][:1] * 2)


def test_the_base_is_as_it_was_whatever_becomes_of_an_adapter_and_its_own_sampling_is_not_used(prompts, tmp_path):
    workload, _ = prompts
    base = load(workload.model)
    plain, _ = continued(workload, {"base": None})
    sampling = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=1.9, eos_token_id=0, pad_token_id=0)
    before, base.model.generation_config = base.model.generation_config, sampling
    modules = [type(module) for module in base.model.modules()]
    try:
        assert continued(workload, {"base": None})[0] == plain
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(Exception, match=r"."):  # whatever PEFT raises
            continued(workload, {"broken": tmp_path})
        assert base.model.generation_config is sampling
    finally:
        base.model.generation_config = before
    assert [type(module) for module in base.model.modules()] == modules
    assert not hasattr(base.model, "peft_config")


def test_of_rows_without_a_prompt_it_is_said_that_their_first_half_is_one(workload):
    texts, about = continued(workload, {"base": None})
    assert about.startswith("Each prompt is the first half of a row, for the rows have no prompt; at most ")
    assert len(texts) == 5
    assert all(text["prompt"] in "".join(text.values()) and text["the data"] for text in texts)
