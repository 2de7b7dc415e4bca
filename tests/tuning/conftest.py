"""Files that are wrong, for the tests of what is refused, and of what is never loaded."""

import json
import pickle
from pathlib import Path

import pytest

LINES = [f"the {index} quick foxes jump over {index + 1} lazy dogs" for index in range(60)]
JSONL = "".join(json.dumps({"text": line}) + "\n" for line in LINES)
CSV = "text\n" + "\n".join(LINES) + "\n"
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
    "macs.txt": "\r".join(LINES).encode(),
    "mixed.txt": "\n".join(LINES).encode() + "\nmüde".encode("latin-1"),
    "utf16.jsonl": JSONL.encode("utf-16"),
    "latin.csv": "text\nmüde".encode("latin-1"),
    "broken.jsonl": '{"text": "a"}\n{"text": \n',
    "list.jsonl": JSONL + "[1]\n",
    "numbers.jsonl": "1\n2\n",
    "half_pair.jsonl": JSONL + '{"text": "\\ud800"}\n',
    "deep.jsonl": JSONL + '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
    "chat.jsonl": '{"text": [{"role": "user"}]}\n' * 3,
    "nulls.jsonl": '{"text": null}\n' * 3,
    "null_prompts.jsonl": '{"ask": null, "answer": "a"}\n' * 3,
    "one_prompt.jsonl": "".join(json.dumps({"ask": "same", "answer": line}) + "\n" for line in LINES),
    "table.csv": "a,b\nx,y\n",
    "ragged.csv": CSV + "a,b,c\n",
    "quote.csv": CSV + '"a\n',
}


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


class Trace:
    """It leaves a trace where its pickle is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="session")
def tracing_pickle():
    """A function that returns a pickle which makes a file where it is loaded."""
    return lambda path: pickle.dumps(Trace(path))


@pytest.fixture
def run_dir(tmp_path):
    """The folder of a run, whose name no other has."""
    folder = tmp_path / f"run-{tmp_path.name}"
    folder.mkdir()
    return folder
