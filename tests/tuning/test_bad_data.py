"""Every wrong data file: one line with the place and what would be right; and files that only look wrong."""

import json
import time

import pytest

from trainables.data import dealing
from trainables.data.splits import DataSource, corpus_sha256, read_documents
from trainables.data.templates import Encoder
from tuning.cli import main

SMALL = ("--train-examples", "8", "--validation-examples", "4", "--test-examples", "4", "--max-length", "32")
LINES = [f"the {index} quick foxes jump over {index + 1} lazy dogs" for index in range(60)]
JSONL = "".join(json.dumps({"text": line}) + "\n" for line in LINES)
CSV = "text\n" + "\n".join(LINES) + "\n"
DATA = [
    ("missing.txt", (), "no such file", "give .txt"),
    ("missing.csv", (), "no such file", "give .txt"),
    ("missing.xlsx", (), "no such file", "give .txt"),
    ("nothing*.csv", (), "no such file", "hub id"),
    ("folder.jsonl", (), "no file of a known kind in this folder", "give .txt"),
    ("table.pkl", (), "unknown kind of file", "give .txt"),
    ("empty.txt", (), "no text", "give one"),
    ("empty.jsonl", (), "empty", "no text in it"),
    ("empty.csv", (), "empty", "no text in it"),
    ("empty.parquet", (), "empty", "no text in it"),
    ("blank.txt", (), "no text", "give one"),
    ("header.csv", (), "no rows", "correct the file"),
    ("ten.txt", (), "1 text, ", "give 3 or more"),
    ("two.txt", (), "2 texts", "give 3 or more"),
    ("binary.txt", (), "binary, not text, at byte 0", "UTF-8"),
    ("binary.csv", (), "binary, not text, at byte 7, line 3", "UTF-8"),
    ("binary.parquet", (), "not a parquet file", "correct the file"),
    ("pickle.jsonl", (), "binary", "UTF-8"),
    ("macs.txt", (), "a carriage return alone", "convert them"),
    ("mixed.txt", (), f"byte {len(chr(10).join(LINES)) + 2:,}, line 61", "convert it"),
    ("utf16.jsonl", (), "not UTF-8 at byte 0, line 1", "convert it"),
    ("latin.csv", (), "not UTF-8 at byte 6, line 2", "convert it"),
    ("broken.jsonl", (), "line 2: no JSON", "correct the file"),
    ("late.jsonl", (), "line 40,000: no JSON", "correct the file"),
    ("list.jsonl", (), "line 61: [1] is no JSON object", "correct the file"),
    ("numbers.jsonl", (), "line 1: 1 is no JSON object", "correct the file"),
    ("half_pair.jsonl", (), "line 61", "correct the file"),
    ("deep.jsonl", (), "line 61", "correct the file"),
    ("chat.jsonl", (), "row 1 has no text", "make it text"),
    ("nulls.jsonl", (), "'text' (--text-column) is null in all 3 rows", "null"),
    (
        "null_prompts.jsonl",
        ("--prompt-column", "ask", "--completion-column", "answer"),
        "'ask' (--prompt-column)",
        "null",
    ),
    (
        "one_prompt.jsonl",
        ("--prompt-column", "ask", "--completion-column", "answer"),
        "60 rows with 1 different prompt, ",
        "3 or more",
    ),
    ("table.csv", (), "it has a, b", "--text-column"),
    ("table.csv", ("--text-column", "c"), "no column 'c' (--text-column)", "it has a, b"),
    ("table.csv", ("--text-column", "a"), "1 text, ", "3 or more"),
    ("ragged.csv", (), "line 62", "correct the file"),
    ("quote.csv", (), "the row of line 62: unexpected end of data", "correct the file"),
]


@pytest.mark.parametrize(("name", "flags", "culprit", "right"), DATA)
def test_wrong_data_is_one_line_that_names_the_place_and_what_would_be_right(name, flags, culprit, right, wrong, given):
    line = wrong("--dataset", given / name, *SMALL, *flags)
    assert str(given / name) in line
    assert culprit in line
    assert right in line


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv"])
def test_a_byte_order_mark_and_carriage_returns_change_no_text(name, tmp_path):
    clean = {"x.txt": "\n".join(LINES), "x.jsonl": JSONL, "x.csv": CSV}[name]
    digests = set()
    for number, text in enumerate((clean, "\ufeff" + clean, clean.replace("\n", "\r\n"))):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_bytes(text.encode())
        digests.add(corpus_sha256(read_documents(DataSource(dataset=str(path)))))
        assert [document.text for document in read_documents(DataSource(dataset=str(path)))] == LINES
    assert len(digests) == 1


def test_a_row_with_a_null_is_left_out(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"ask": 0, "answer": "a"}\n{"ask": null, "answer": "b"}\n{"ask": "c", "answer": null}\n')
    source = DataSource(dataset=str(path), prompt_column="ask", completion_column="answer")
    assert [(document.prompt, document.text) for document in read_documents(source)] == [("0", "a")]


KINDS = pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])


@KINDS
@pytest.mark.search
@pytest.mark.thorough
def test_a_line_of_50_mb_takes_seconds_alone_or_among_others(kind, tmp_path, wrong, capsys):
    # 400 s for each, and 10 GB, if all of it is tokenised
    assert seconds_of_a_long_line(2_500_000, kind, tmp_path, wrong, capsys) < 120


@KINDS
def test_of_a_long_line_the_beginning_is_tokenised(kind, tmp_path, wrong, capsys, monkeypatch):
    tokenised, tokens = [], Encoder.tokens
    monkeypatch.setattr(dealing, "TEXT_CHARACTERS", 20_000)
    monkeypatch.setattr(
        Encoder, "tokens", lambda encoder, document: tokenised.append(document) or tokens(encoder, document)
    )
    seconds_of_a_long_line(100_000, kind, tmp_path, wrong, capsys)
    assert max(len(document.text) for document in tokenised) == 20_000


def seconds_of_a_long_line(times, kind, folder, wrong, capsys):
    line = "the quick brown fox " * times
    path = folder / f"long.{kind}"
    row = json.dumps({"text": line}) if kind == "jsonl" else line
    path.write_text({"txt": "", "jsonl": "", "csv": "text\n"}[kind] + row)
    began = time.monotonic()
    assert "1 text, and none is in two splits" in wrong("--dataset", path, *SMALL)
    path.write_text({"txt": "\n".join(LINES) + "\n", "jsonl": JSONL, "csv": CSV}[kind] + row)
    assert main(["--dry-run", "--dataset", str(path), *SMALL]) == 0
    capsys.readouterr()
    return time.monotonic() - began
