"""Whatever somebody else's run folder says: it is used or refused in one line, and no other file is touched by it."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.__main__ import main as analysis
from analysis.results import journal
from tests.fakes import mlflow
from trainables.training import checkpoint
from tuning.cli import main
from tuning.tracking.__main__ import command as replay

PLANTED = "planted-3c1f"
FILES = ("plan.json", "facts.json", "rows.jsonl", "record.jsonl", "mlflow-outbox.jsonl", "mlflow-state.json")
SESSION, ADAPTER = (f"ray/*/*/checkpoint_*/session/{name}" for name in (checkpoint.META, "adapter/adapter_config.json"))
LATER = [FILES[1], FILES[2], *FILES[4:], "evidence.json", SESSION, ADAPTER, "best_adapter/adapter_config.json"]
ODD = st.sampled_from(
    [
        "{planted}", "../../../mine.txt", "../mine.txt", "![a]({planted})", "file://{planted}", "<img src='{planted}'>",
        2**63, 10**400, -(10**30), 1e308, -1e308, 5e-324, 0, -1, True, None, "", "x" * 5000, "\0\x1b[2J\ud800", [], {},
        [[]], {"": 0}, {"a": {"b": "c"}}, [None], ["{planted}"], "nan", "1e999", "parent", "baseline", "confirm",
    ]
)  # fmt: skip
STRANGE = settings(
    max_examples=24,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEWER = settings(STRANGE, max_examples=10)  # each is a search


@st.composite
def changes(draw):
    """A line, a way into it, what stands there instead, as a value or as its key."""
    way = draw(st.lists(st.integers(0, 30), min_size=1, max_size=4))
    return draw(st.integers(0, 40)), way, draw(ODD), draw(st.booleans())


def changed(path, change, planted):
    """Replace a value somewhere in a file of JSON, or of lines of it, or a table, and seal it again."""
    number, way, odd, is_key = change
    odd = json.loads(json.dumps(odd).replace("{planted}", str(planted)))
    if path.suffix == ".csv":
        return _changed_cell(path, number, way, odd)
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    value = json.loads(lines[number % len(lines)])
    is_sealed = value.pop(journal.CHECKSUM, None) is not None
    value = _replaced(value, way, odd, is_key)
    if path.name == checkpoint.META and isinstance(value, dict):
        rest = {name: of_it for name, of_it in value.items() if name != "sha256"}
        value = {**rest, "sha256": checkpoint._digest(path.parent, rest)}
    lines[number % len(lines)] = journal.sealed(value) if is_sealed and isinstance(value, dict) else json.dumps(value)
    path.write_text("\n".join(lines) + "\n")
    return None


def _changed_cell(path, number, way, odd):
    with path.open(newline="") as file:
        rows = [*csv.reader(file)]
    cells = rows[1 + number % (len(rows) - 1)]
    column, *further = (way[0] % len(cells), *way[1:])
    nested = cells[column][:1] in "[{" and further
    cells[column] = json.dumps(_replaced(json.loads(cells[column] or "null"), further, odd)) if nested else str(odd)
    with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows(rows)


def _replaced(value, way, odd, is_key=False):
    if not way or not isinstance(value, dict | list) or not value:
        return odd
    keys = sorted(value) if isinstance(value, dict) else range(len(value))
    key = keys[way[0] % len(keys)]
    copy = dict(value) if isinstance(value, dict) else list(value)
    if is_key and len(way) == 1 and isinstance(value, dict):
        copy[str(odd)] = copy.pop(key)
    else:
        copy[key] = _replaced(value[key], way[1:], odd, is_key)
    return copy


@pytest.fixture
def strange(left, tmp_path, monkeypatch, capsys, simulated):
    """A function that changes a file of a copied run, does something with it, and sees that nothing else is touched."""
    planted = tmp_path / "mine.txt"
    planted.write_text(PLANTED)

    def attempt(name, change, do):
        folder = tmp_path / "runs" / "first"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(left, folder)
        paths = sorted(folder.glob(name))
        if change is not None:
            changed(paths[change[0] % len(paths)], change, planted)
        capsys.readouterr()
        status = do(folder)
        errors = capsys.readouterr().err
        mlflow.cut_off()
        assert status in {0, 2, 3, 4, 5} or (status == 1 and "Error: " in errors), (status, errors)
        assert "Traceback" not in errors
        assert len([line for line in errors.splitlines() if line.startswith("Error")]) == (status not in {0, 3})
        assert planted.read_text() == PLANTED
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "runs"]
        texts = [path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()]
        assert not any(PLANTED.encode() in text for text in texts), "a file outside was read into one inside"
        sent = [run.artifacts for runs in simulated.values() for run in runs.values()]
        assert not any("mine.txt" in names for names in sent)

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        return command()

    attempt.run = run
    return attempt


@pytest.mark.parametrize("name", [*FILES[:3], "evidence.json"])
@STRANGE
@given(change=changes())
def test_a_report_is_made_of_a_strange_run_or_it_is_refused(strange, name, change):
    strange(name, change, lambda folder: strange.run(analysis, folder))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("facts.json", "shrink", [{}]),
        ("facts.json", "data", {"words": 1}),
        ("facts.json", "handed_out", {"../..": 1.0}),
        ("facts.json", "coverage", "![a]({planted})"),
        ("evidence.json", "other", {"y": 1.0}),
        ("rows.jsonl", "history", [{"step": {}, "eval_loss": 1.0}]),
        ("rows.jsonl", "history", [{"step": 1, "eval_loss": "x"}]),
        ("rows.jsonl", "config", {"baseline": {"of": ["y"]}}),
        ("rows.jsonl", "config", {"baseline": {"slope": [{}]}, "seed": {}}),
        ("rows.jsonl", "trainable_parameters", 0),
        ("rows.jsonl", "ranks", {"h.0.q": 1, "h.1.q": 1, "h.99999999999.q": 1}),
    ],
)
def test_a_report_with_all_its_pictures_is_made_of_what_no_search_writes_or_refused(strange, drawing, name, key, value):
    def report(folder):
        path = folder / name
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        changed_lines = [{**json.loads(line), key: value} for line in lines]
        for line in changed_lines:
            line.pop(journal.CHECKSUM, None)
        path.write_text("".join(json.dumps(line) + "\n" for line in changed_lines))
        return strange.run(analysis, folder)

    strange(name, None, report)


@STRANGE
@given(change=changes())
def test_a_report_is_made_of_a_strange_table_or_it_is_refused(strange, change):
    def report(folder):
        (folder.parent / "again").mkdir()
        return strange.run(analysis, "--rows", folder / "rows.csv", "--output", folder.parent / "again" / "of_rows.md")

    strange("rows.csv", change, report)


@pytest.mark.parametrize("name", FILES[4:])
@STRANGE
@given(change=changes())
def test_a_strange_outbox_is_sent_from_within_the_run_or_refused(strange, name, change):
    strange(name, change, lambda folder: strange.run(replay, "replay", folder, "--to", "http://127.0.0.1:9"))


@pytest.mark.search
@pytest.mark.thorough
@pytest.mark.parametrize("name", [FILES[0], FILES[3], *LATER])
@FEWER
@given(change=changes())
def test_a_strange_search_goes_on_or_is_refused(strange, name, change):
    strange(name, change, lambda folder: _resumed(folder))


def _resumed(folder: Path) -> int:
    return main(["--resume", folder.name, "--runs-dir", str(folder.parent), "--margin", "0.5", "--allow-changes"])
