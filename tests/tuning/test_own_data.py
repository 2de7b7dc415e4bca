"""People's own data at the command line: each example file, what a dry run says of it, and what a plan keeps."""

import json
from pathlib import Path

import pytest

from analysis.report import closing
from analysis.results.run_info import RunInfo
from strategies.base import Site
from trainables.data.corpus import read_corpus
from trainables.data.source import DataSource
from trainables.models.base_model import Shape
from trainables.models.context import Context
from tuning.cli import main, resolve_plan
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import preflight, preview
from tuning.state import continuation

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
TEMPLATE = ("--chat-template", str(EXAMPLES / "chat_template.jinja"))
FIRST = "How long is the Aare?"
FILES = {
    "text.txt": ((), f"⟦{FIRST} The Aare is 288 km long.<|endoftext|>⟧"),
    "text.parquet": ((), f"⟦{FIRST} The Aare is 288 km long.<|endoftext|>⟧"),
    "pairs.csv": ((), f"{FIRST}⟦ The Aare is 288 km long.<|endoftext|>⟧"),
    "pairs.tsv": ((), f"{FIRST}⟦ The Aare is 288 km long.<|endoftext|>⟧"),
    "pairs_semicolon.csv": ((), f"{FIRST}⟦ The Aare is 288 km long.<|endoftext|>⟧"),
    "conversational_pairs.jsonl": (
        TEMPLATE, f"<|user|>\n{FIRST}\n<|assistant|>\n⟦The Aare is 288 km long.<|endoftext|>\n⟧"
    ),
    "messages.jsonl": (
        TEMPLATE,
        f"<|system|>\nAnswer in one sentence.\n<|user|>\n{FIRST}\n<|assistant|>\n⟦The Aare is 288 km long.<|endoftext|>"
        "⟧\n<|user|>\nWhere does the Aare end?\n<|assistant|>\n⟦The Aare flows into the Rhine.<|endoftext|>⟧\n",
    ),
    "sharegpt.jsonl.gz": (TEMPLATE, f"<|user|>\n{FIRST}\n<|assistant|>\n⟦The Aare is 288 km long.<|endoftext|>⟧\n"),
    "alpaca.json": (
        (), f"### Instruction:\n{FIRST}\n\n### Response:\n⟦The Aare is 288 km long.<|endoftext|>⟧"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_each_example_file_becomes_what_the_page_says(name):
    from trainables.data.lengths import marked
    from trainables.data.splits import Example
    from trainables.data.templates import Encoder
    from trainables.models.base_model import load_tokenizer

    flags, text = FILES[name]
    source = DataSource(dataset=str(EXAMPLES / name), chat_template=flags[1] if flags else None)
    corpus, tokenizer = read_corpus(source), load_tokenizer("bundled")
    tokens = Encoder(source, tokenizer).tokens(corpus.documents[0])
    assert marked(Example(tuple(tokens.input_ids), tuple(tokens.labels)), tokenizer) == text
    assert (corpus.rows, corpus.left_out) == (80, {})
    page = (EXAMPLES.parents[1] / "docs" / "data.md").read_text()
    assert f"`{name}`" in page
    assert all(line in page for line in text.splitlines())


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """A function that returns what a dry run says; it must leave nothing."""
    monkeypatch.chdir(tmp_path)

    def run(name, *flags):
        assert main(["--dry-run", "--dataset", str(EXAMPLES / name), *flags]) == 0
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().out

    return run


@pytest.mark.search
def test_a_dry_run_is_one_screen_with_counts_lengths_and_an_example(dry_run):
    out = dry_run("messages.jsonl", *TEMPLATE)
    assert "40 of 80 rows used to train, 20 to validate, 20 to test" in out
    assert "tokens of a row: " in out
    assert "none is cut" in out or "% of the rows are cut" in out
    assert "<|assistant|>\n⟦The " in out
    assert "time: about " in out
    assert "disk: about " in out
    assert len(out.splitlines()) <= 40


def test_of_an_example_a_screen_has_beginning_and_end_in_lines_and_characters():
    assert preview.shortened("\n".join(map(str, range(12)))) == "\n".join(map(str, range(12)))
    assert preview.shortened("\n".join(map(str, range(300)))).split("\n") == [
        *map(str, range(6)), "…", *map(str, range(294, 300)),
    ]  # fmt: skip
    assert preview.shortened("a" * 600) == "a" * 600
    long = preview.shortened("\n".join(["a" * 99] * 40 + ["b" * 99] * 40))
    assert (len(long), long[:1], long[-1:]) == (603, "a", "b")


def test_a_dry_run_as_json_has_the_numbers_and_the_example(dry_run):
    content = json.loads(dry_run("pairs.csv", "--json", "--train-examples", "0.5", "--max-length", "24"))
    assert list(content) == [
        "rows", "used", "left_out", "tokens", "example", "allocations", "seconds", "memory_bytes", "memory",
        "disk_bytes",
    ]  # fmt: skip
    assert content["rows"] == 80
    assert content["used"] == {"train": 40, "validation": 20, "test": 20}
    example = content["example"]
    assert len(example["ids"]) == len(example["labels"]) <= 24
    assert example["text"].startswith(("How", "Where", "Name", "Is"))
    assert [label for label in example["labels"] if label != -100] == example["ids"][example["labels"].count(-100) :]
    assert sum(content["allocations"]["baseline"].values()) > 0
    assert content["allocations"]["empirical"] is None
    assert min(content["seconds"], content["memory_bytes"], content["disk_bytes"]) > 0


def test_json_without_a_dry_run_is_refused(refused):
    assert "--json is a form of --dry-run" in refused("--json")


@pytest.mark.parametrize(
    ("flag", "value", "read"),
    [("train_examples", "200", 200), ("train_examples", "0.25", 0.25), ("train_examples", "all", "all"),
     ("max_length", "auto", "auto"), ("max_length", "64", 64)],
)  # fmt: skip
def test_numbers_shares_and_words_are_told_apart(flag, value, read):
    chosen = getattr(resolve_plan(None, {flag: value}), flag)
    assert (chosen, type(chosen)) == (read, type(read))


@pytest.mark.parametrize("value", ["0", "1.5", "-3", "some", "nan"])
def test_what_is_neither_a_number_nor_a_share_is_refused(value, refused):
    assert "--train-examples" in refused("--train-examples", value)


def test_defaults_are_200_of_128_tokens_of_the_bundled_data_and_2000_that_fit_of_others():
    bundled, other = SearchPlan().data_source(), SearchPlan(dataset="x.csv").data_source()
    assert (bundled.train_examples, bundled.max_length, bundled.fits_length) == (200, 128, False)
    assert bundled == DataSource()
    assert (other.train_examples, other.fits_length, other.keeps_quarters) == (2000, True, True)


def test_all_rows_of_a_test_file_are_tested_on_up_to_1000_unless_a_number_was_asked_for():
    plans = [{}, {"test_dataset": "y.csv"}, {"test_dataset": "y.csv", "test_examples": 100}, {"test_examples": 50}]
    sources = [SearchPlan(dataset="x.csv", **plan).data_source() for plan in plans]
    assert [source.test_examples for source in sources] == [100, 1000, 100, 50]
    assert {source.validation_examples for source in sources} == {100}


LLAMA = tuple(
    Site(f"{block}.{name}", d_in, d_out, block, "mlp")
    for block in range(32)
    for name, d_in, d_out in (("up", 4096, 14336), ("gate", 4096, 14336), ("down", 14336, 4096))
)
"""The larger matrices of Llama-3.1-8B."""


@pytest.mark.parametrize(("gigabytes", "tokens"), [(100, 8192), (33, 386), (20, 128)])
def test_memory_shortens_rows_only_where_one_alone_does_not_fit_and_that_is_said(gigabytes, tokens, monkeypatch):
    monkeypatch.setattr(preflight, "free_bytes", lambda: gigabytes * 10**9)
    plan, shape = SearchPlan(dataset="x.csv", gpus_per_trial=0), Shape(None, 8_030_000_000, Context(8192, ""), 128256)
    monkeypatch.setattr(Shape, "sites", LLAMA)
    longest, note = preflight._longest(plan, shape, plan.data_source())
    assert longest == tokens
    assert note == (
        f"--max-length auto: {tokens} tokens, for one longer row does not fit into memory" * (tokens < 8192)
    )
    on_gpu = SearchPlan(dataset="x.csv", gpus_per_trial=1)
    assert preflight._longest(on_gpu, shape, on_gpu.data_source()) == (8192, "")


def test_that_rows_are_shortened_is_said_with_what_is_said_of_the_data(monkeypatch):
    monkeypatch.setattr(preflight, "_longest", lambda *_: (16, "they are short"))
    assert preflight.check(SearchPlan(dataset=str(EXAMPLES / "pairs.csv"))).data["words"][-1] == "they are short"
    monkeypatch.setattr(preflight, "_longest", lambda *_: (4096, "they are short"))
    assert "they are short" not in preflight.check(SearchPlan(dataset=str(EXAMPLES / "pairs.csv"))).data["words"]


def test_a_plan_keeps_the_numbers_that_were_used_and_is_the_same_with_them():
    plan = SearchPlan(dataset=str(EXAMPLES / "pairs.csv"), train_examples="all")
    checked = preflight.check(plan)
    used = plan.model_copy(update=checked.pinned)
    assert (used.train_examples, used.validation_examples, used.test_examples) == (40, 20, 20)
    assert isinstance(used.max_length, int)
    again = preflight.check(SearchPlan(**used.model_dump()))
    assert again.workload.splits == checked.workload.splits
    assert again.pinned == checked.pinned


@pytest.mark.parametrize(
    ("rows", "choices", "used"),
    [(3000, {}, (2000, 100, 100)), (3000, {"train_examples": "all"}, (2800, 100, 100)),
     (3000, {"train_examples": 0.5}, (1500, 100, 100)), (399, {}, (201, 99, 99))],
)  # fmt: skip
def test_all_rows_are_used_up_to_2000_or_as_many_as_were_asked_for_and_it_is_said(rows, choices, used, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\n" + "".join(f"{number}:, fox {number}\n" for number in range(rows)))
    plan = SearchPlan(dataset=str(path), **choices)
    checked = preflight.check(plan)
    train, validation, test = used
    said = f"{train:,} of {rows:,} rows used to train, {validation} to validate, {test} to test"
    assert checked.data["words"][0] == said
    assert plan.model_copy(update=checked.pinned).train_examples == train


def test_what_a_template_refuses_is_named_by_file_and_row(tmp_path, refused):
    (tmp_path / "data").mkdir()
    (tmp_path / "t.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}]}
            for n in range(30)]  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "data" / "a.jsonl").write_text("\n".join(lines[:10]))
    tool = {"messages": [*rows[9]["messages"], {"role": "tool", "content": "x"}]}
    (tmp_path / "data" / "b.jsonl").write_text("\n".join([*lines[10:16], json.dumps(tool), *lines[16:]]))
    flags = ("--dataset", tmp_path / "data", "--learn", "all", "--dry-run")
    error = refused(*flags, "--chat-template", tmp_path / "t.jinja")
    place = f"--dataset {tmp_path}/data: {tmp_path}/data/b.jsonl: row 7"
    assert f"{place}: the chat template refuses a conversation (no tools)" in error
    (tmp_path / "data" / "b.jsonl").write_text("\n".join([*lines[10:16], '{"messages": [5]}']))
    assert f"{place} has no message with role and content but 5" in refused(*flags)


def test_that_there_is_no_template_is_no_rows_fault(refused):
    error = refused("--dataset", EXAMPLES / "messages.jsonl", "--dry-run")
    assert f"--dataset {EXAMPLES}/messages.jsonl: these are conversations, and the model's tokenizer has no" in error


@pytest.mark.search
def test_without_20_test_documents_nothing_is_confirmed_and_it_is_said(tmp_path, capsys):
    lines = (EXAMPLES / "text.txt").read_text().splitlines()
    (tmp_path / "few.txt").write_text("\n".join(lines[:40]))
    plan = SearchPlan(dataset=str(tmp_path / "few.txt"))
    checked = preflight.check(plan)
    assert checked.pinned["confirm_seeds"] == 0
    assert main(["--dry-run", "--dataset", str(tmp_path / "few.txt")]) == 0
    out = capsys.readouterr().out
    assert "no verdict: 10 test documents, and it takes at least 20; nothing is confirmed" in out
    assert "20 trials and 0 confirmation runs" in out


def test_a_template_that_has_changed_is_another_corpus(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    plan = SearchPlan(dataset=str(EXAMPLES / "messages.jsonl"), chat_template=str(path), learn="all")
    first = preflight.check(plan)
    path.write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    with pytest.raises(ValueError, match="--corpus-sha256"):
        preflight.check(plan.model_copy(update={"corpus_sha256": first.corpus_sha256, "epochs": 1.0}))
    assert preflight.check(plan).workload.splits != first.workload.splits


def test_a_file_that_has_changed_between_two_searches_of_a_program_is_read_again(tmp_path):
    path, chosen = tmp_path / "texts.txt", []
    for word in ("fox", "dog"):
        path.write_text("".join(f"the {word} {number} jumps\n" for number in range(60)))
        chosen.append(preflight.check(SearchPlan(dataset=str(path))))
    first, again = chosen
    assert first.corpus_sha256 != again.corpus_sha256
    assert first.workload.splits.train_sha256 != again.workload.splits.train_sha256


def test_a_plan_of_an_earlier_version_is_the_plan_that_it_was():
    saved = json.loads((Path(__file__).parents[1] / "data" / "run-2026-11-27" / "plan.json").read_text())
    plan = SearchPlan(**saved)
    assert plan.data_source() == DataSource(text_column="text")
    assert continuation.changed_plan(plan, {}, 0) == (plan, [])


def test_the_report_says_what_was_used_of_the_data():
    data = {"words": ["40 of 80 rows used to train, 20 to validate, 20 to test", "left out: 3 (a row again)"]}
    lines = closing.reproduce(RunInfo(command="tune.py", dataset="x.csv", data=data))
    assert f"- **Used of the data:** {data['words'][0]}; {data['words'][1]}" in lines
    assert not any("Used of the data" in line for line in closing.reproduce(RunInfo(command="tune.py")))
