"""Files are read as they are: as Python's own csv and json read them, and by the characters that stand in them."""

import csv
import gzip
import io
import json
from collections import Counter

import pandas as pd
import pyarrow
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainables.data import text_files
from trainables.data.corpus import read_corpus, read_documents
from trainables.data.formats import is_wanted
from trainables.data.readers import read_table, text_of
from trainables.data.source import DataSource

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMES = st.lists(
    CELLS | st.sampled_from(["text", "a;b", "c,d", 'e"f', "é\u2028", "g\nh"]), min_size=1, max_size=4, unique=True
)
SIGNS = st.sampled_from([",", ";", "\t"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | CELLS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(CELLS, values, max_size=3),
    max_leaves=6,
)


def table(path):
    return read_table(path, lambda column: True)


def texts(path, **choices):
    return [document.text for document in read_documents(DataSource(dataset=str(path), **choices))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@given(data=st.data(), names=NAMES, quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]), sign=SIGNS)
def test_every_csv_is_read_as_pythons_csv_reads_it_and_only_empty_cells_are_null(folder, data, names, quoting, sign):
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=5))
    file = io.StringIO(newline="")
    csv.writer(file, quoting=quoting, delimiter=sign).writerows([names, *rows])
    text = file.getvalue()
    assume(text.strip() and not text.startswith(("\ufeff", "sep=")))
    path = folder / ("table.tsv" if sign == "\t" else "table.csv")
    path.write_bytes(text.encode())
    expected = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=sign))
    assert read_table(path, lambda column: column in names).rows == [
        {name: cell for name, cell in row.items() if cell} for row in expected
    ]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text,a;b;c", ("text", "a;b;c")),
        ("prompt;completion, de", ("prompt", "completion, de")),
        ("a;b;c,text", ("a;b;c", "text")),
        ("id;price, net;who", ("id", "price, net", "who")),
    ],
)
def test_the_sign_between_columns_is_the_one_that_makes_the_columns_that_are_wanted(header, columns, tmp_path):
    (tmp_path / "a.csv").write_text(f"{header}\nx\n")
    source = DataSource(dataset="a.csv")
    assert read_table(tmp_path / "a.csv", lambda column: is_wanted(source, column)).columns == columns


@given(rows=st.lists(st.dictionaries(CELLS, VALUES, min_size=1), min_size=1, max_size=5), ascii=st.booleans())
def test_every_json_is_read_as_pythons_json_reads_it(folder, rows, ascii):
    for name, content in (
        ("table.jsonl", "\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows)),
        ("table.json", json.dumps(rows, ensure_ascii=ascii, indent=1)),
    ):
        (folder / name).write_bytes(content.encode())
        expected = [{name: value for name, value in row.items() if value is not None} for row in rows]
        assert table(folder / name).rows == expected
        assert set(table(folder / name).columns) == {name for row in rows for name in row}


@given(lines=st.lists(CELLS.filter(lambda text: "\n" not in text and not text.endswith("\r")), min_size=1))
def test_a_line_of_a_txt_file_is_what_a_line_feed_ends(folder, lines):
    path = folder / "lines.txt"
    for end in ("\n", "\r\n"):
        path.write_bytes("".join(line + end for line in lines).encode())
        assert [row.get("", "") for row in table(path).rows] == [lines[0].removeprefix("\ufeff"), *lines[1:]]


def test_words_that_mean_null_elsewhere_and_numbers_are_texts_of_a_csv(tmp_path):
    cells = ["None", "NA", "null", "nan", "N/A", "NULL", "00003", "3.10", "false", "4", "2024-01-04", " x "]
    path = tmp_path / "cells.csv"
    path.write_text("id,text\n" + "\n".join(f"{number},{cell}" for number, cell in enumerate(cells)) + "\n99,\n")
    assert texts(path) == cells
    assert read_corpus(DataSource(dataset=str(path))).left_out == {"null in 'text'": 1}
    assert read_corpus(DataSource(dataset=str(path))).rows == len(cells) + 1


def test_a_json_value_is_the_characters_that_stand_in_the_file(tmp_path):
    path = tmp_path / "values.jsonl"
    path.write_text(
        "\n".join(f'{{"text": {value}}}' for value in ('"2024-01-04"', '"00003"', "3.10", "1e5", "-7", "false", "null"))
    )
    assert texts(path) == ["2024-01-04", "00003", "3.10", "1e5", "-7", "false"]


def test_signs_that_end_a_line_elsewhere_end_none_of_a_txt_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("one\u2028two\n three\x0cfour \nfive\x85six\rseven\r\n\neight".encode())
    assert texts(path) == ["one\u2028two", " three\x0cfour ", "five\x85six\rseven", "eight"]
    assert read_corpus(DataSource(dataset=str(path))).left_out == {"no text to learn": 1}


def test_every_kind_of_file_gives_the_same_texts_in_a_folder_packed_or_by_a_pattern(tmp_path):
    lines = ["one fish", "two; fish", "3.0"]
    rows = [{"text": line, "other": 1} for line in lines]
    contents = {
        "a.txt": "\n".join(lines),
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "a.ndjson": "\n".join(map(json.dumps, rows)),
        "a.json": json.dumps(rows),
        "b.json": "\n".join(map(json.dumps, rows)),
        "c.json": json.dumps({"version": 1, "data": rows}),
        "a.csv": 'text,other\none fish,1\n"two; fish",1\n3.0,1\n',
        "b.csv": 'text;other\n"one fish";1\n"two; fish";1\n3.0;1\n',
        "a.tsv": "text\tother\none fish\t1\ntwo; fish\t1\n3.0\t1\n",
    }
    paths = []
    for name, content in contents.items():
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
            paths.append(path)
    pd.DataFrame(rows).to_parquet(packed := tmp_path / "a.parquet")
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(packed.read_bytes()))
    paths += [packed, tmp_path / "a.parquet.gz"]
    (tmp_path / "a.jsonl.zst").write_bytes(pyarrow.Codec("zstd").compress(contents["a.jsonl"].encode(), asbytes=True))
    for path in (*paths, tmp_path / "a.jsonl.zst", tmp_path / "*.txt*", tmp_path / "*.[jc]s*"):
        assert texts(path) == lines, path
    for path in tmp_path.glob("*.txt*"):
        path.unlink()
    everything = read_corpus(DataSource(dataset=str(tmp_path)))
    assert (everything.rows, everything.left_out) == (19 * 3, {"a row again": 18 * 3})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("b.jsonl.bz2", r"b.jsonl.bz2 would not be read; unpack or convert it, or give a pattern, as '.*\*.jsonl'"),
        ("more/b.XLSX", "more/b.XLSX would not be read"),
        (
            "LICENSE.txt",
            r"LICENSE.txt has lines of text, and train.jsonl has columns; give a pattern, as '.*\*.jsonl'",
        ),
        (
            "Test.jsonl.gz",
            "Test.jsonl.gz would be dealt to training like the others; give the files that are to be, and",
        ),
        ("wiki_eval.jsonl", "wiki_eval.jsonl would .* --validation-dataset .*wiki_eval.jsonl; to have all dealt, give"),
        ("my.val.jsonl", "my.val.jsonl would"),
        ("validation-00000-of-00001.jsonl", "validation-0.* would"),
        ("dev/0.jsonl", "dev/0.jsonl would"),
        ("wiki_test_v2.jsonl", "wiki_test_v2.jsonl would"),
        ("my-val-set.jsonl", "my-val-set.jsonl would"),
        ("HoldOut.jsonl", "HoldOut.jsonl would"),
        ("held-out 2.jsonl", "held-out 2.jsonl would"),
        ("evaluation.jsonl", "evaluation.jsonl would"),
        ("test1.jsonl", "test1.jsonl would"),
        ("my_dev_set/0.jsonl", "my_dev_set/0.jsonl would"),
    ],
)
def test_a_folder_of_files_that_are_not_alike_is_refused_by_the_culprit(name, problem, tmp_path):
    for path in (tmp_path / "train.jsonl", tmp_path / name):
        path.parent.mkdir(exist_ok=True)
        content = b'{"text": "%s"}' % path.name.encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    with pytest.raises(ValueError, match=f"^--dataset .*: {problem}"):
        texts(tmp_path)
    assert "train.jsonl" in texts(tmp_path / "*.jsonl")


@pytest.mark.parametrize("names", [["test.jsonl"], ["latest.jsonl", "devices2.jsonl", "evaluate/a.jsonl", "README.md"]])
def test_a_folder_of_files_of_one_purpose_is_read_whole(names, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    assert sorted(texts(tmp_path)) == sorted(name for name in names if name != "README.md")


def test_lines_beside_columns_are_refused_in_a_pattern_too(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    (tmp_path / "LICENSE.txt").write_text("x")
    with pytest.raises(ValueError, match=r"LICENSE\.txt has lines of text, and a\.jsonl has columns"):
        texts(tmp_path / "*")


def test_a_column_of_mixed_types_that_nobody_wants_and_brackets_in_a_path_are_no_obstacle(tmp_path):
    folder = tmp_path / "data [v1]*"
    folder.mkdir()
    for name, content in (
        ("a.jsonl", '{"text": "x", "meta": 1}\n{"text": "y", "meta": {"a": []}}\n{"text": "z", "meta": "w"}'),
        ("a.csv", "text,meta\nx,1\ny,{}\nz,w\n"),
        ("a.txt", "x\ny\nz"),
    ):
        (folder / name).write_text(content)
        assert texts(folder / name) == ["x", "y", "z"]
    pd.DataFrame({"text": ["x"], "picture": [b"\0"]}).to_parquet(folder / "a.parquet")
    assert texts(folder / "a.parquet") == ["x"]


@pytest.mark.parametrize("columns", [["text"], ["prompt", "completion"], ["messages"]])
def test_a_table_that_is_written_column_by_column_has_the_same_rows(tmp_path, columns):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{name: [*chat] if name == "messages" else f"{name} {number}" for name in columns} for number in range(3)]
    (tmp_path / "lists.json").write_text(json.dumps({name: [row[name] for row in rows] for name in columns}))
    pd.DataFrame(rows).to_json(tmp_path / "pandas.json")
    for name in ("lists.json", "pandas.json"):
        assert (table(tmp_path / name).columns, table(tmp_path / name).rows) == (tuple(columns), rows)
    (tmp_path / "one.json").write_text(json.dumps({"messages": chat}))
    (tmp_path / "pair.json").write_text(json.dumps({"prompt": chat[:1], "completion": chat[1:]}))
    assert table(tmp_path / "one.json").rows == [{"messages": chat}]
    assert table(tmp_path / "pair.json").rows == [{"prompt": chat[:1], "completion": chat[1:]}]


@pytest.mark.parametrize("sign", [";", ",", "\t"])
def test_the_line_by_which_excel_knows_the_delimiter_is_no_row(tmp_path, sign):
    path = tmp_path / "excel.csv"
    path.write_text(f"sep={sign}\r\nprompt{sign}completion\r\na{sign}b\r\n")
    assert table(path).rows == [{"prompt": "a", "completion": "b"}]


@pytest.mark.parametrize(
    ("content", "advice"),
    [(gzip.compress(b"{}", mtime=0), "give it the ending .gz"), (b"PK\3\4" + bytes(9), "unpack the zip first"),
     (pyarrow.Codec("zstd").compress(b"{}", asbytes=True), "give it the ending .zst")],
)  # fmt: skip
def test_a_packed_file_whose_name_does_not_say_so_is_told_from_a_binary_one(tmp_path, content, advice):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=f"packed, and its name does not say so; {advice}"):
        read_documents(DataSource(dataset=str(tmp_path / "a.jsonl")))


def test_a_packed_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "x"}' * 99)[:-9])
    with pytest.raises(ValueError, match="cannot be unpacked") as caught:
        read_documents(DataSource(dataset=str(path)))
    assert str(path) in str(caught.value)


def test_a_wrong_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n{')
    with pytest.raises(ValueError, match=r"b\.jsonl: cannot be read \(line 2: no JSON"):
        read_documents(DataSource(dataset=str(tmp_path)))


def test_a_number_knows_its_characters_and_is_a_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 3.10}')
    number = table(path).rows[0]["text"]
    assert (number, text_of(number), json.dumps(number)) == (3.1, "3.10", "3.1")


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,text\nx,y\n")
    with pytest.raises(ValueError, match="two columns are called 'text'"):
        read_documents(DataSource(dataset=str(path)))


def test_rows_of_two_files_are_counted_and_left_out_of_training(tmp_path):
    for name, lines in (("train", "abcdeff"), ("validation", "bxc"), ("test", "cyz")):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    source = DataSource(
        dataset=str(tmp_path / "train.txt"),
        validation_dataset=str(tmp_path / "validation.txt"),
        test_dataset=str(tmp_path / "test.txt"),
    )
    corpus = read_corpus(source)
    assert [document.text for document in corpus.documents] == ["a", "d", "e", "f"]
    assert {split: [d.text for d in documents] for split, documents in corpus.others.items()} == {
        "validation": ["b", "x"], "test": ["c", "y", "z"],
    }  # fmt: skip
    assert Counter(corpus.left_out) == {
        "also in --validation-dataset": 1, "also in --test-dataset": 2, "a row again": 1,
    }  # fmt: skip
    assert corpus.rows == 7


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_a_file_that_would_fill_the_memory_is_refused_however_small_it_is_packed(tmp_path, monkeypatch, name):
    content, path = b"a line\n" * 1000, tmp_path / name
    packed = {"gz": gzip.compress, "zst": lambda raw: pyarrow.compress(raw, "zstd", asbytes=True)}
    path.write_bytes(packed.get(name.rpartition(".")[2], bytes)(content))
    monkeypatch.setattr(text_files, "free_bytes", lambda: 4 * len(content))
    assert len(table(path).rows) == 1000
    monkeypatch.setattr(text_files, "free_bytes", lambda: 4 * len(content) - 4)
    with pytest.raises(ValueError, match=r"more than 0\.0 GB, and rows and tokens need memory, too; give a part"):
        table(path)


def test_a_table_that_would_fill_the_memory_is_refused_by_what_its_wanted_columns_take(tmp_path, monkeypatch):
    frame = pd.DataFrame({"text": [f"{n} " + "a" * 500 for n in range(1000)], "other": [f"{n}" for n in range(1000)]})
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=100)
    whole = pyarrow.Table.from_pandas(frame)
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), whole.schema) as stream:
        stream.write_table(whole, max_chunksize=100)
    monkeypatch.setattr(text_files, "free_bytes", lambda: 4 * 100_000)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(
            ValueError, match=r"^has more than 0\.0 GB, and rows and tokens need memory, too; give a part"
        ):
            table(tmp_path / name)
        assert len(read_table(tmp_path / name, lambda column: column == "other").rows) == 1000


@pytest.mark.parametrize(
    "choices",
    [
        {"data_format": "messages"},
        {"prompt_column": "a", "completion_column": "b"},
        {"messages_column": "a"},
        {"text_column": "a"},
    ],
)
def test_what_only_columns_have_is_refused_for_files_of_lines(choices, tmp_path):
    (tmp_path / "a.txt").write_text("x\ny")
    flag = next(iter(choices)).replace("_", "-")
    for dataset in (tmp_path, tmp_path / "*.txt", tmp_path / "a.txt"):
        with pytest.raises(ValueError, match=f"--{flag} (a|messages): .*has no columns; leave it out"):
            texts(dataset, **choices)
    assert texts(tmp_path, data_format="text") == texts(tmp_path, text_column="text") == ["x", "y"]
