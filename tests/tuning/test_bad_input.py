"""Every wrong flag, file and name: one line with what is wrong and what would be right, status 2, nothing written."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainables.data import DataSource, corpus_sha256, read_documents
from tuning.cli import main

ROOT = Path(__file__).parents[2]
SMALL = ("--train-examples", "8", "--validation-examples", "4", "--test-examples", "4", "--max-length", "32")
LINES = [f"the {index} quick foxes jump over {index + 1} lazy dogs" for index in range(60)]
JSONL = "".join(json.dumps({"text": line}) + "\n" for line in LINES)
CSV = "text\n" + "\n".join(LINES) + "\n"

FLAGS = [
    (["--strategies", "lineer"], "lineer", "linear_decay"),
    (["--strategies", "baseline", "--strategies", "baseline"], "baseline, baseline", "once"),
    (["--scheduler", "pbt"], "pbt", "asha"),
    (["--num-samples", "0"], "--num-samples", "greater than or equal to 1"),
    (["--num-samples", "many"], "--num-samples", "integer"),
    (["--num-samples", "9" * 30], "--num-samples", "less than or equal to 2147483648"),
    (["--seed", str(2**70)], "--seed", "less than or equal to 2147483648"),
    (["--epochs", "-1"], "--epochs", "greater than 0"),
    (["--epochs", "nan"], "--epochs", "finite"),
    (["--epochs", "1e300"], "--epochs", "less than or equal to 1000000"),
    (["--cpus-per-trial", "1e300"], "--cpus-per-trial", "less than or equal to 10000"),
    (["--learning-rate", "inf"], "--learning-rate", "finite"),
    (["--learning-rate", "30"], "--learning-rate 30", "within 1e-12 to 100"),
    (["--learning-rate-factor", "1e308"], "--learning-rate-factor 1e+308", "within 1e-12 to 100"),
    (["--dropout", "1"], "--dropout", "less than 1"),
    (["--scaling", "r"], "--scaling", "constant"),
    (["--batch-size", "300"], "--batch-size 300", "--train-examples 200"),
    (["--budget", "100", "--budget-rank", "2"], "--budget-rank", "one"),
    (["--budget", "100"], "--budget 100", "at least 256"),
    (["--budget-rank", "4000"], "--budget-rank 4000", "(128)"),
    (["--name", "../x"], "../x", "folder name"),
    (["--name", ""], "--name", "must not be empty"),
    (["--name", "n" * 300], "--name", "at most 100"),
    (["--name", "a\x1b[31m"], "--name", "printable"),
    (["--name", "a\n"], "--name", "printable"),
    (["--name", "taken"], "--name taken", "another name"),
    (["--name", "a_file"], "--name a_file", "another name"),
    (["--prompt-column", "q"], "--completion-column", "both"),
    (["--text-column", "x"], "--text-column x", "leave it out"),
    (["--max-length", "9999"], "--max-length 9999", "256"),
    (["--no-such-flag"], "--no-such-flag", "option"),
    (["stray"], "stray", "argument"),
    (["--model", ""], "--model", "must not be empty"),
    (["--model", "./missing"], "./missing", "Hugging Face model"),
    (["--model", "{folder}"], "{folder}", "config.json"),
    (["--model", "{folder}/lines.txt"], "lines.txt: not a directory", "Hugging Face model"),
    (["--model", "m" * 300], "mmm", "Hugging Face model"),
    (["--model", "org/absent"], "org/absent", "a hub id"),
    (["--model-revision", "v1"], "--model-revision v1", "leave it out"),
    (["--dataset-revision", "v1"], "--dataset-revision v1", "leave it out"),
    (["--mlflow-uri", "ftp://there"], "--mlflow-uri ftp://there", "http://HOST:5000"),
    (["--mlflow-uri", "mlruns"], "--mlflow-uri mlruns", "http://HOST:5000"),
    (["--mlflow-uri", "http://me:geheim@there"], "--mlflow-uri 'http://***@there'", "MLFLOW_TRACKING_PASSWORD"),
    (["--mlflow-uri", "postgresql://me:ge/he@im@there/db"], "'postgresql://***@there/db'", "PGPASSWORD"),
    (["--mlflow-uri", "postgresql://there/db?user=me&password=geheim"], "password=***", "PGPASSWORD"),
    (["--dataset", "https://me:geheim@there/x.jsonl"], "https://***@there", "HF_TOKEN"),
    (["--scheduler", "ray://me:geheim@there"], "ray://***@there", "RAY_AUTH_TOKEN"),
    (["--corpus-sha256", "0" * 64], "--corpus-sha256 0000", "the texts of pydoc have"),
    (["--config", "{folder}/missing.yaml"], "missing.yaml", "YAML"),
    (["--config", "{folder}"], "--config {folder}: not a file", "YAML"),
    (["--config", "/dev/zero"], "--config /dev/zero: not a file", "YAML"),
    (["--config", "a\0b"], "--config a\\x00b", "null byte"),
    (["--config", "{folder}/50mb.yaml"], "50,000,000 bytes", "at most 1,000,000"),
]


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """A folder of files that are all wrong."""
    folder = tmp_path_factory.mktemp("given")
    for name, content in DATA_FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "folder.jsonl").mkdir()
    with (folder / "50mb.yaml").open("wb") as file:
        file.truncate(50_000_000)
    (folder / "late.jsonl").write_text(JSONL * 666 + JSONL[: JSONL.index(LINES[39])][:-10] + '{"text": "cut\n' + JSONL)
    return folder


@pytest.fixture
def wrong(given, tmp_path, refused):
    """Run with arguments, one of which is wrong, and a runs folder that must stay as it is; return the line."""
    runs = tmp_path / "runs"
    (runs / "taken").mkdir(parents=True)
    (runs / "a_file").write_text("mine")

    def run(*arguments):
        before = sorted(runs.rglob("*"))
        line = refused(*(str(argument).format(folder=given) for argument in arguments), "--runs-dir", runs)
        assert sorted(runs.rglob("*")) == before
        return line

    return run


@pytest.mark.parametrize(("arguments", "culprit", "right"), FLAGS)
def test_a_wrong_flag_is_one_line_that_names_it_and_what_would_be_right(arguments, culprit, right, wrong, given):
    line = wrong(*arguments)
    assert culprit.format(folder=given) in line
    assert right in line
    assert "geheim" not in line
    assert "he@im" not in line


PLANS = [
    ("ranck: 8", "ranck", "known: model"),
    ("- 1", "plan.yaml", "mapping"),
    ("", "plan.yaml: nothing in it", "mapping"),
    ("a: [", "plan.yaml", "line 1"),
    ("seed: 1\nseed: 2", "'seed'", "give it once"),
    ("seed: 1\n\tepochs: 2", "'\\t'", "line 2"),
    ("seed: 1\n---\nseed: 2", "plan.yaml", "single document"),
    ("? [seed]\n: 1", "key", "must be a name"),
    ("1: 2", "plan.yaml", "mapping from names"),
    ("seed: yes", "--seed True", "number"),
    ("epochs: no", "--epochs False", "number"),
    ("seed: 1.5", "--seed 1.5", "integer"),
    ("seed: 1" + "0" * 5000, "plan.yaml", "limit"),
    ("model: [a, b]", "--model ['a', 'b']", "string"),
    ("model: 5", "--model 5", "string"),
    ("model: null", "--model None", "string"),
    ("dataset: {a: 1}", "--dataset {'a': 1}", "string"),
    ("strategies: baseline", "--strategies 'baseline'", "list"),
    ("strategies: [[a]]", "--strategies", "string"),
    ("strategies: []", "--strategies", "name each strategy once"),
    ('model: "a\\x07b"', "'\\x07'", "printable"),
    ('model: "a\\0b"', "'\\x00'", "printable"),
    ('model: "\\ud800"', "'\\ud800'", "printable"),
    ("name: 2026-01-01", "--name datetime.date(2026, 1, 1)", "string"),
    ("name: 2026-99-99", "plan.yaml", "month"),
    ("official: maybe", "--official 'maybe'", "boolean"),
    ("model: !!python/object/apply:os.system ['touch owned']", "python/object/apply", "constructor"),
    ("model: &a [*a]", "aliases", "write the value out"),
    ("mlflow_uri: http://me:geheim@there", "http://***@there", "MLFLOW_TRACKING_PASSWORD"),
    ("model: " + "m" * 5000, "5,000 characters", "at most 4,096"),
    ("model: " + "[" * 5000 + "]" * 5000, "nested", "mapping"),
    ("\xff\xfe", "plan.yaml", "YAML"),
]


@pytest.mark.parametrize(("text", "culprit", "right"), PLANS)
def test_a_wrong_plan_file_is_one_line_that_names_it_and_what_would_be_right(text, culprit, right, tmp_path, wrong):
    config = tmp_path / "plan.yaml"
    config.write_bytes(text.encode("latin-1"))
    line = wrong("--config", config)
    assert culprit in line
    assert right in line
    assert "geheim" not in line
    assert len(line) < 1000


@pytest.mark.parametrize("key", ["model", "unknown"])
def test_a_bomb_of_aliases_is_refused_before_it_goes_off(key, tmp_path, wrong):
    config = tmp_path / "plan.yaml"
    levels = ["x0: &x0 [l, l, l, l, l, l, l, l, l]"]
    levels += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12)]
    config.write_text("\n".join([*levels, f"{key}: *x11"]))
    began = time.monotonic()
    assert "aliases" in wrong("--config", config)
    assert time.monotonic() - began < 5


DATA_FILES = {
    "lines.txt": "\n".join(LINES),
    "empty.txt": "",
    "empty.jsonl": "",
    "empty.csv": "",
    "empty.parquet": "",
    "blank.txt": "\n \n",
    "header.csv": "text\n",
    "ten.txt": "ten signs.",
    "two.txt": "the quick brown fox\njumps over the dog",
    "binary.txt": bytes(range(256)),
    "binary.csv": b"text\na\n\0\1\2\n",
    "binary.parquet": bytes(range(256)) * 9,
    "pickle.jsonl": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00",
    "table.pkl": b"\x80\x04.",
    "mixed.txt": "\n".join(LINES).encode() + "\nmüde".encode("latin-1"),
    "utf16.jsonl": JSONL.encode("utf-16"),
    "latin.csv": "text\nmüde".encode("latin-1"),
    "broken.jsonl": '{"text": "a"}\n{"text": \n',
    "list.jsonl": JSONL + "[1]\n",
    "numbers.jsonl": "1\n2\n",
    "half_pair.jsonl": JSONL + '{"text": "\\ud800"}\n',
    "deep.jsonl": JSONL + '{"text": ' + "[" * 3000 + "]" * 3000 + "}\n",
    "chat.jsonl": '{"text": [{"role": "user"}]}\n' * 3,
    "nulls.jsonl": '{"text": null}\n' * 3,
    "null_prompts.jsonl": '{"ask": null, "answer": "a"}\n' * 3,
    "one_prompt.jsonl": "".join(json.dumps({"ask": "same", "answer": line}) + "\n" for line in LINES),
    "table.csv": "a,b\nx,y\n",
    "ragged.csv": CSV + "a,b,c\n",
    "quote.csv": CSV + '"a\n',
}

DATA = [
    ("missing.txt", (), "No such file", "give a file"),
    ("missing.csv", (), "no such file", "give .txt"),
    ("missing.xlsx", (), "no such file", "give .txt"),
    ("", (), "unknown kind of file", "hub id"),
    ("folder.jsonl", (), "not a file", "give .txt"),
    ("table.pkl", (), "unknown kind of file", "give .txt"),
    ("empty.txt", (), "no text", "give one"),
    ("empty.jsonl", (), "empty", "no text in it"),
    ("empty.csv", (), "empty", "no text in it"),
    ("empty.parquet", (), "empty", "no text in it"),
    ("blank.txt", (), "no text", "give one"),
    ("header.csv", (), "no rows", "correct the file"),
    ("ten.txt", (), "1 texts", "give 3 or more"),
    ("two.txt", (), "2 texts", "give 3 or more"),
    ("lines.txt", ("--train-examples", "80"), "60 examples from 60 texts for 88 wanted", "lower --train-examples"),
    ("binary.txt", (), "binary, not text, at byte 0", "UTF-8"),
    ("binary.csv", (), "binary, not text, at byte 7, line 3", "UTF-8"),
    ("binary.parquet", (), "not a parquet file", "correct the file"),
    ("pickle.jsonl", (), "binary", "UTF-8"),
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
        "1 different prompts",
        "3 or more",
    ),
    ("table.csv", (), "no column 'text' (--text-column)", "it has a, b"),
    ("table.csv", ("--text-column", "a"), "1 texts", "3 or more"),
    ("ragged.csv", (), "line 62", "correct the file"),
    ("quote.csv", (), "EOF inside string", "correct the file"),
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_line_of_50_mb_takes_seconds_alone_or_among_others(kind, tmp_path, wrong, capsys):
    line = "the quick brown fox " * 2_500_000
    path = tmp_path / f"long.{kind}"
    row = json.dumps({"text": line}) if kind == "jsonl" else line
    path.write_text({"txt": "", "jsonl": "", "csv": "text\n"}[kind] + row)
    began = time.monotonic()
    assert "1 texts, and none is in two splits" in wrong("--dataset", path, *SMALL)
    path.write_text({"txt": "\n".join(LINES) + "\n", "jsonl": JSONL, "csv": CSV}[kind] + row)
    assert main(["--dry-run", "--dataset", str(path), *SMALL]) == 0
    assert time.monotonic() - began < 120  # 400 s for each, and 10 GB, if all of it is tokenised
    capsys.readouterr()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing", "/dev/full", "long"])
def test_a_runs_folder_that_cannot_be_written_to_is_refused(place, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    folder = {"long": tmp_path / ("x" * 300)}.get(place, tmp_path / place)
    line = refused("--runs-dir", folder)
    assert f"--runs-dir {folder}" in line
    assert "give" in line or "needs" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_runs_folder_without_permission_is_refused(tmp_path, refused):
    tmp_path.chmod(0o500)
    assert "Permission denied" in refused("--runs-dir", tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--config", "{folder}/binary.txt"], "binary.txt"),
        (["--dataset", "{folder}/late.jsonl"], "line 40,000"),
        (["--model", "{folder}/none"], "{folder}/none"),
        (["--name", "m\udcfcde"], "\\udcfc"),  # a byte that is no UTF-8, as Python passes it
    ],
)
def test_a_real_process_says_one_line_too(arguments, culprit, given, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tune.py", *(argument.format(folder=given) for argument in arguments)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert culprit.format(folder=given) in done.stderr
    assert list(tmp_path.iterdir()) == []
