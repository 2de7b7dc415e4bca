import json
import random
from collections import Counter

import pandas as pd
import pytest
import torch

from trainables.data import dealing
from trainables.data.collate import collate
from trainables.data.dealing import shuffled
from trainables.data.preparation import prepare
from trainables.data.splits import (
    IGNORED,
    DataSource,
    Example,
    by_document,
    corpus_sha256,
    load_splits,
    mean_loss,
    read_documents,
)
from trainables.models.base_model import load_tokenizer

SMALL = {"train_examples": 8, "validation_examples": 4, "test_examples": 4, "max_length": 32}


def test_padding_is_neither_attended_to_nor_learned():
    batch = collate([Example((5, 6, 7), (5, 6, 7)), Example((8,), (8,))], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[5, 6, 7], [8, IGNORED, IGNORED]]
    assert batch.learned_tokens == 2


def test_no_document_is_in_two_splits(tiny_gpt2, tiny_text):
    splits = load_splits(DataSource(dataset=str(tiny_text), **SMALL), str(tiny_gpt2))
    texts = [{example.input_ids for example in part} for part in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in texts] == [8, 4, 4]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]


def test_prompts_are_masked_and_one_prompt_stays_in_one_split(tiny_gpt2, tmp_path):
    rows = [{"ask": f"question {i // 2} ?", "answer": f"answer {i} is fox"} for i in range(60)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = DataSource(
        dataset=str(path), prompt_column="ask", completion_column="answer", **SMALL | {"max_length": 60}
    )
    splits = load_splits(source, str(tiny_gpt2))
    tokenizer = load_tokenizer(str(tiny_gpt2))
    prompts = []
    for part in (splits.train, splits.validation, splits.test):
        masked = [sum(label == IGNORED for label in example.labels) for example in part]
        decoded = [tokenizer.decode(e.input_ids[:n]) for e, n in zip(part, masked, strict=True)]
        assert all(text.startswith("question") and "answer" not in text for text in decoded)
        prompts.append(set(decoded))
    assert not prompts[0] & prompts[1]
    assert not prompts[1] & prompts[2]
    assert not prompts[0] & prompts[2]


def test_examples_know_their_document_and_losses_are_summed_by_it(tiny_gpt2, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"{number} the quick brown fox jumps over the lazy dog " * 4 for number in range(30)))
    splits = load_splits(DataSource(dataset=str(path), **SMALL | {"max_length": 16}), str(tiny_gpt2))
    documents = [{example.document for example in part} for part in (splits.train, splits.validation, splits.test)]
    assert not documents[0] & documents[1]
    assert not (documents[0] | documents[1]) & documents[2]
    examples = [Example((1, 2, 3), (1, 2, 3), 7), Example((1, 2), (1, 2), 4), Example((1, 2), (IGNORED, 2), 7)]
    assert by_document(examples, [0.5, 2.0, 0.25]) == {4: (2.0, 1), 7: (0.75, 3)}
    assert list(by_document(examples, [0.5, 2.0, 0.25])) == [4, 7]
    assert mean_loss(examples, [0.5, 2.0, 0.25]) == 2.75 / 4


def test_a_long_document_takes_no_more_than_its_share_of_a_split(tiny_gpt2, tmp_path):
    path = tmp_path / "texts.txt"
    lines = [
        f"{number} " + "the quick brown fox jumps over the lazy dog " * (40 if number % 5 else 4)
        for number in range(24)
    ]
    path.write_text("\n".join(lines))
    source = DataSource(dataset=str(path), **SMALL | {"max_length": 16, "test_examples": 12})
    splits = load_splits(source, str(tiny_gpt2))
    counts = Counter(example.document for example in splits.test)
    assert len(splits.test) == len(set(splits.test)) == 12
    assert len(counts) >= 4
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_tables_of_every_kind_give_the_same_documents(tmp_path, suffix):
    frame = pd.DataFrame({"text": ["one fish", "two fish", "one fish"], "other": [1, 2, 3]})
    path = tmp_path / f"table.{suffix}"
    {"csv": frame.to_csv, "jsonl": frame.to_json, "parquet": frame.to_parquet}[suffix](
        path, **({"orient": "records", "lines": True} if suffix == "jsonl" else {"index": False})
    )
    assert [d.text for d in read_documents(DataSource(dataset=str(path)))] == ["one fish", "two fish"]


def test_the_digest_changes_with_the_text(tmp_path):
    path = tmp_path / "a.txt"
    digests = []
    for text in ("one", "two", "one"):
        path.write_text(text)
        digests.append(corpus_sha256(read_documents(DataSource(dataset=str(path)))))
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("name", "content", "culprit"),
    [
        ("missing.txt", None, "no such file"),
        ("empty.txt", b"", "no text"),
        ("binary.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("table.csv", b"a,b\n1,2\n", "no column 'text'"),
        ("table.jsonl", b'{"text": "a"}\n{"text": ', "cannot be read"),
        ("table.xlsx", b"PK", "unknown kind of file"),
        ("excel.csv", b"sep=;\r\n", "no rows in it"),
        ("latin.csv", "text\nna\xefve\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_wrong_data_is_named_in_one_line(tmp_path, name, content, culprit):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=culprit) as caught:
        read_documents(DataSource(dataset=str(path)))
    assert str(path) in str(caught.value)


def test_the_numbers_that_are_saved_give_the_same_splits_where_there_was_less_than_was_asked_for(
    tiny_gpt2, tmp_path, monkeypatch
):
    """How much of a long text is tokenised follows from how many examples are wanted."""
    monkeypatch.setattr(dealing, "TEXT_CHARACTERS", 100)
    path, word = tmp_path / "long.txt", random.Random(0)
    lengths = (8000, 10, 10, 10, 10, 10, 10)
    path.write_text("\n".join(" ".join(word.choices(["a", "list", "of", "objects"], k=count)) for count in lengths))
    asked = DataSource(
        dataset=str(path), train_examples=20, validation_examples=10, test_examples=10, max_length=16
    )  # fmt: skip
    first = prepare(asked, str(tiny_gpt2))
    assert first.source.test_examples < 10
    again = prepare(first.source, str(tiny_gpt2))
    assert again.source == first.source
    assert again.splits == first.splits


def test_rows_in_which_nothing_is_asked_have_no_prompt_in_common(tmp_path):
    path, system, answer = tmp_path / "rows.jsonl", {"role": "system", "content": "Be brief."}, {"role": "assistant"}
    path.write_text(
        "".join(
            json.dumps({"prompt": prompt, "completion": [answer | {"content": f"{number}"}]}) + "\n"
            for number, prompt in enumerate([[], [], [system], [system], [{"role": "user", "content": "?"}]] * 2)
        )
    )
    documents = read_documents(DataSource(dataset=str(path)))
    assert sorted(len(group) for group in shuffled(documents, DataSource(dataset=str(path)))) == [1] * 8 + [2]


def test_too_little_text_is_refused(tiny_gpt2, tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("the quick brown fox\njumps over the lazy dog")
    with pytest.raises(ValueError, match="too little text, 2 texts, and none is in two splits; give 3 or more"):
        load_splits(DataSource(dataset=str(path)), str(tiny_gpt2))


def test_prompt_and_completion_columns_go_together():
    with pytest.raises(ValueError, match="--completion-column"):
        DataSource(prompt_column="a")


def test_long_documents_are_cut_into_windows_that_cover_them(tiny_gpt2, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"{i} " + "fox dog lazy quick " * 20 for i in range(20)))
    splits = load_splits(DataSource(dataset=str(path), **SMALL), str(tiny_gpt2))
    assert max(len(example.input_ids) for example in splits.train) == 32
    assert isinstance(collate(splits.train, 0).input_ids, torch.Tensor)
