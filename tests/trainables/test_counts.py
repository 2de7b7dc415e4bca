"""How many rows are used, how long examples are, and what is said of the rest."""

import json
from dataclasses import replace

import pytest

from trainables.data.lengths import data_facts, enough_to_test
from trainables.data.preparation import prepare
from trainables.data.source import DataSource
from trainables.models.base_model import load_tokenizer


@pytest.fixture
def pairs(tmp_path):
    """A function that writes pairs and returns their file; each has the number of words that is given."""

    def write(sizes, name="pairs.jsonl"):
        path = tmp_path / name
        rows = [{"prompt": f"{number}: ", "completion": "fox " * size} for number, size in enumerate(sizes)]
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


def counted(prepared):
    splits = prepared.splits
    return len(splits.train), len(splits.validation), len(splits.test)


@pytest.mark.parametrize(
    ("rows", "choices", "counts"),
    [
        (60, {"train_examples": 8, "validation_examples": 4, "test_examples": 4}, (8, 4, 4)),
        (60, {"train_examples": 80, "validation_examples": 20, "test_examples": 20}, (40, 10, 10)),
        (399, {"train_examples": 2000, "keeps_quarters": True}, (201, 99, 99)),
        (80, {"train_examples": 2000, "keeps_quarters": True}, (40, 20, 20)),
        (900, {"train_examples": 600, "keeps_quarters": True}, (600, 100, 100)),
        (900, {"train_share": 1.0, "keeps_quarters": True}, (700, 100, 100)),
        (900, {"train_share": 0.5, "keeps_quarters": True}, (450, 100, 100)),
        (100, {"train_share": 0.8, "keeps_quarters": True}, (80, 10, 10)),
    ],
)
def test_counts_and_shares_are_used_and_fewer_rows_shrink_the_splits(rows, choices, counts, pairs, tiny_gpt2):
    source = DataSource(dataset=pairs([1] * rows), **{"max_length": 32, **choices})
    prepared = prepare(source, str(tiny_gpt2))
    assert counted(prepared) == counts
    assert prepared.source == replace(
        source, train_share=None, keeps_quarters=False, train_examples=counts[0], validation_examples=counts[1],
        test_examples=counts[2],
    )  # fmt: skip


@pytest.mark.parametrize(
    "choices", [{"train_share": 0.3}, {"train_share": 1.0}, {"train_examples": 200}, {"fits_length": True}]
)
@pytest.mark.parametrize("kind", ["pairs", "texts", "prompts"])
def test_the_numbers_that_were_used_give_the_same_examples_again(choices, kind, pairs, tmp_path, tiny_gpt2):
    path = pairs([number % 30 for number in range(1, 300)])
    if kind == "texts":
        path = str(tmp_path / "texts.txt")
        (tmp_path / "texts.txt").write_text("\n".join(f"{number} fox " * (number % 40) for number in range(300)))
    if kind == "prompts":
        rows = [{"prompt": f"{number % 50}: ", "completion": f"fox {number}"} for number in range(300)]
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = {"validation_examples": 20, "test_examples": 20, "keeps_quarters": True, "max_length": 24, **choices}
    first = prepare(DataSource(dataset=path, **asked), str(tiny_gpt2), 24)
    assert first.source.train_share is None
    again = prepare(first.source, str(tiny_gpt2))
    assert again is not first
    assert again.source == first.source
    assert again.splits == first.splits


def test_the_length_is_that_of_99_in_100_rows_within_what_is_possible(pairs, tiny_gpt2):
    source = DataSource(dataset=pairs([3] * 197 + [9] * 2 + [400]), fits_length=True, keeps_quarters=True)
    lengths = prepare(source, str(tiny_gpt2), 10_000).lengths
    assert lengths[0] < lengths[197] < lengths[199] == max(lengths)
    assert prepare(source, str(tiny_gpt2), 10_000).source.max_length == lengths[197] == lengths[198]
    assert prepare(source, str(tiny_gpt2), 7).source.max_length == 7


def test_what_is_cut_and_left_out_is_counted_and_said(pairs, tmp_path, tiny_gpt2):
    path = pairs([1] * 30 + [90] * 10)
    with open(path, "a") as file:
        file.writelines(
            f"\n{json.dumps({'prompt': 'fox ' * 90 + str(number), 'completion': 'x'})}" for number in range(5)
        )
        file.write('\n{"prompt": "a", "completion": null}\n{"prompt": "0: ", "completion": "fox "}')
    source = DataSource(dataset=path, keeps_quarters=True, max_length=32)
    facts = data_facts(prepare(source, str(tiny_gpt2)))
    assert facts["rows"] == 47
    assert facts["used"] == {"train": 20, "validation": 10, "test": 10}
    assert facts["left_out"] == {"null in 'completion'": 1, "a row again": 1, "nothing to learn within 32 tokens": 5}
    assert facts["tokens"]["100"] > 90
    assert (facts["cut"], facts["ends_lost"], facts["filled"]) == (10 / 40, 10 / 40, 5 / 45)
    assert facts["words"][:2] == [
        "20 of 47 rows used to train, 10 to validate, 10 to test",
        "left out: 5 (nothing to learn within 32 tokens), 1 (null in 'completion'), 1 (a row again)",
    ]
    assert facts["words"][2].endswith(
        "at --max-length 32 25.0% of the rows are cut, 25.0% lose their end token, and of 11.1% nothing is left to "
        "learn"
    )


@pytest.mark.parametrize(("by_hand", "said"), [(0, False), (7, True), (40, False)])
def test_rows_that_were_put_into_a_template_by_hand_are_counted_where_others_were_not(
    by_hand, said, tmp_path, tiny_gpt2
):
    path, end = tmp_path / "rows.jsonl", load_tokenizer(str(tiny_gpt2)).eos_token
    rows = [{"prompt": f"{n}?{end if n < by_hand else ''}", "completion": f" fox {n}"} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m['content'] }}" + end + "{% endfor %}")
    source = DataSource(dataset=str(path), chat_template=str(tmp_path / "t.jinja"), keeps_quarters=True)
    facts = data_facts(prepare(source, str(tiny_gpt2)))
    assert facts["by_hand"] == [by_hand, 40]
    line = f"{by_hand} of 40 rows have the template's special tokens in their prompt and are taken as they are;"
    assert facts["words"][-1].startswith(line) == said


def test_prompts_that_meet_their_completion_without_a_space_are_said(tmp_path, tiny_gpt2):
    path = tmp_path / "glued.jsonl"
    path.write_text("\n".join(f'{{"prompt": "Inn{number}", "completion": "Green"}}' for number in range(40)))
    facts = data_facts(prepare(DataSource(dataset=str(path), keeps_quarters=True), str(tiny_gpt2)))
    assert facts["glued"] == 1
    assert "100% of the prompts meet their completion without a space" in facts["words"][-1]


@pytest.mark.parametrize(
    ("rows", "choices", "documents", "enough"),
    [
        (80, {"keeps_quarters": True}, 20, True),
        (79, {"keeps_quarters": True}, 19, False),  # there are no more
        (200, {"train_examples": 50, "test_examples": 19}, 19, False),  # no more were asked for
        (200, {"train_examples": 50, "test_examples": 20}, 20, True),
    ],
)
def test_fewer_than_20_test_documents_are_too_few_whatever_the_reason(
    rows, choices, documents, enough, pairs, tiny_gpt2
):
    prepared = prepare(DataSource(dataset=pairs([1] * rows), **choices), str(tiny_gpt2))
    assert (counted(prepared)[2], enough_to_test(prepared)) == (documents, enough)


def test_many_examples_of_few_documents_are_too_few_to_test(tmp_path, tiny_gpt2):
    (tmp_path / "texts.txt").write_text("\n".join(f"{number} " + "fox jumps " * 400 for number in range(30)))
    asked = {"train_examples": 40, "validation_examples": 40, "test_examples": 40, "max_length": 32}
    prepared = prepare(DataSource(dataset=str(tmp_path / "texts.txt"), **asked), str(tiny_gpt2))
    assert len(prepared.splits.test) == 40
    assert not enough_to_test(prepared)


def test_files_of_their_own_are_validated_and_tested_on(pairs, tiny_gpt2):
    train, validation, test = (pairs([size] * 50, f"{size}.jsonl") for size in (1, 9, 20))
    source = DataSource(
        dataset=train, validation_dataset=validation, test_dataset=test, test_examples=30, keeps_quarters=True
    )
    prepared = prepare(source, str(tiny_gpt2))
    assert counted(prepared) == (50, 50, 30)
    sizes = [
        {len(example.input_ids) for example in split} for split in (prepared.splits.train, prepared.splits.validation)
    ]
    assert not sizes[0] & sizes[1]
    assert data_facts(prepared)["words"][0] == (
        "50 of 50 rows used to train, 50 of 50 different rows of --validation-dataset to validate, 30 of 50 different "
        "rows of --test-dataset to test"
    )
    only_test = prepare(replace(source, validation_dataset=None), str(tiny_gpt2))
    assert counted(only_test) == (38, 12, 30)


def test_of_long_texts_of_their_own_examples_and_texts_are_said(tmp_path, tiny_gpt2):
    for name in ("train", "test"):
        lines = [f"{name} {number} " + "fox jumps " * 400 for number in range(30)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    source = DataSource(
        dataset=str(tmp_path / "train.txt"), test_dataset=str(tmp_path / "test.txt"), train_examples=40,
        validation_examples=40, test_examples=40, max_length=32,
    )  # fmt: skip
    words = data_facts(prepare(source, str(tiny_gpt2)))["words"][0]
    assert words.endswith("to validate, 40 examples from 24 of 30 different rows of --test-dataset to test")
