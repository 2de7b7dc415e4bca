"""The power goes after any write, or in the middle of one, and in the end nobody could tell."""

import copy
import dataclasses
import itertools
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from analysis.report import publish
from tests.fakes import mlflow, ray_tune
from tests.fakes.mlflow import FakeCarrier
from tuning.cli import main
from tuning.state.record import Record

pytestmark = pytest.mark.search  # dozens of searches each
PLAN = (
    "--num-samples", "3", "--strategies", "baseline", "--strategies", "linear_decay", "--max-concurrent-trials", "2",
    "--confirm-seeds", "1", "--reports", "2", "--seed", "5",
)  # fmt: skip
TIMED = {"training_time_seconds", "restarts"}
WRITTEN_IN_PLACE = ("rows.csv", "report.md", "report.html", "evidence.json", "optuna.journal")
PARTS = 6
SOME = [number if number < 1 else pytest.param(number, marks=pytest.mark.thorough) for number in range(PARTS)]
"""A sixth of all places in `make test`, spread over the whole search; the others are thorough."""
Tree = dict[str, bytes]


class Camera:
    """Takes a picture of a folder before each write to it: what a power failure would have left at that moment.

    Attributes:
        pictures: The trees, each with what MLflow had then; those that do not differ from the one before are left out.
    """

    CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

    def __init__(self) -> None:
        self.folder: str | None = None
        self.pictures: list[tuple[Tree, dict]] = []
        sys.addaudithook(self._look)  # it stays, and does nothing without a folder

    def watch(self, folder: Path | None) -> None:
        self.folder = None if folder is None else str(folder)

    def _look(self, event: str, arguments: tuple) -> None:
        folder = self.folder
        if folder is None or event not in self.CHANGES or not str(arguments[0]).startswith(folder):
            return
        if threading.current_thread() is not threading.main_thread():  # what carries to MLflow would be in the middle
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.folder = None  # whoever takes a picture is not in it
        tree = tree_of(Path(folder))
        if not self.pictures or self.pictures[-1][0] != tree:
            self.pictures.append((tree, copy.deepcopy(FakeCarrier.stores)))
        self.folder = folder


def tree_of(folder: Path) -> Tree:
    """Return path -> content of all files and, with an empty name at the end, folders below a folder."""
    tree: Tree = {}
    for path in sorted(folder.rglob("*")):
        try:
            tree[str(path.relative_to(folder)) + "/" * path.is_dir()] = b"" if path.is_dir() else path.read_bytes()
        except FileNotFoundError:  # whoever carries events to MLflow replaces a file at the same time
            continue
    return tree


def laid(tree: Tree, folder: Path) -> Path:
    for name, content in tree.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def torn(before: Tree, after: Tree):
    """Yield what a write that changed one tree into another may have left, had it been cut off."""
    for name in after.keys() - {n for n, content in before.items() if after.get(n) == content}:
        old, new = before.get(name, b""), after[name]
        if new in before.values():  # a file was given another name, which happens or does not
            continue
        if name.endswith(".jsonl") and new.startswith(old):
            places = {len(old) + 1, (len(old) + len(new)) // 2, len(new) - 2, len(new) - 1}
        elif Path(name).name in WRITTEN_IN_PLACE:
            places = {0, 1, len(new) // 2, len(new) - 1}
        else:
            continue
        for place in sorted(place for place in places if len(old) * name.endswith(".jsonl") <= place < len(new)):
            yield f"{name} cut at {place} of {len(new)}", {**before, name: new[:place]}


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        ray_tune.install(patch)
        ray_tune.draw_nothing(patch)
        ray_tune.look_once(patch)
        patch.setattr(
            publish.report, "render", lambda assessment, info, drawn: "\n".join(row.trial_id for row in assessment.rows)
        )
        patch.setattr(publish.page, "render", lambda text, *_: text)
        mlflow.install(patch)
        patch.setattr(os, "fsync", lambda number: None)  # of a disk that is always in time
        yield patch


@pytest.fixture(scope="module")
def filmed(patched, small, tmp_path_factory):
    """(what an unbroken search left, pictures of it while it ran)."""
    runs, camera = tmp_path_factory.mktemp("filmed") / "runs", Camera()
    runs.mkdir()
    camera.watch(runs)
    assert main([*small, *PLAN, "--runs-dir", str(runs), "--name", "cut"]) == 0
    camera.watch(None)
    return left_by(runs), camera.pictures


def left_by(runs):
    """What a search has found: its rows, without times, and what Optuna and MLflow know of them."""
    folder = runs / "cut"
    rows = [
        {k: v for k, v in dataclasses.asdict(row).items() if k not in TIMED} for row in Record(folder).rows.values()
    ]
    for row in rows:
        row["history"] = [{**report, "seconds": None} for report in row["history"]]
    ids = Counter((row["trial_id"], row["phase"]) for row in rows)
    assert max(ids.values()) == 1, "a trial ended twice"
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    study = optuna.load_study(study_name="cut", storage=optuna.storages.JournalStorage(journal))
    assert not [trial for trial in study.trials if trial.state in {TrialState.RUNNING, TrialState.WAITING}]
    told = [(trial.params, trial.state, trial.values, trial.user_attrs) for trial in study.trials]
    stored = FakeCarrier.stores[json.loads((folder / "facts.json").read_text())["search_id"]]
    runs_of = {
        name: (run.name, run.parent, run.status, {k: v for k, v in run.params.items() if k != "runs_dir"},
               run.tags["status"], sorted(run.artifacts),
               {k: v for k, v in run.metrics.items() if k not in {"seconds", "tokens_per_second"}})
        for name, run in stored.items()
    }  # fmt: skip
    report = (folder / "report.md").read_text()
    assert sorted(report.split()) == sorted(row["trial_id"] for row in rows)
    return {"rows": sorted(rows, key=lambda row: row["trial_id"]), "optuna": told, "mlflow": runs_of}


def differences(actual, expected, where=""):
    """Yield where two results differ, and how."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        for key in {**expected, **actual}:
            yield from differences(actual.get(key), expected.get(key), f"{where}/{key}")
    elif isinstance(actual, list | tuple) and isinstance(expected, list | tuple) and len(actual) == len(expected):
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            yield from differences(one, other, f"{where}/{number}")
    elif actual != expected:
        yield f"{where}: {actual!r}, not {expected!r}"


def gone_on(small, runs, capsys):
    """Take up what is there, or begin if nothing is, and return what is left."""
    new = [*small, *PLAN, "--runs-dir", str(runs), "--name", "cut"]
    status = main(["--resume", "cut", "--runs-dir", str(runs)] if (runs / "cut").exists() else new)
    assert status == 0, capsys.readouterr().err
    return left_by(runs)


def assert_complete(runs, capsys):
    """A search that is complete is left as it is."""
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["--resume", "cut", "--runs-dir", str(runs)]) == 0
    assert "cut is complete" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", SOME)
def test_a_search_that_ends_after_any_write_goes_on_to_what_an_unbroken_one_leaves(
    filmed, small, tmp_path, capsys, part
):
    unbroken, pictures = filmed
    assert len(pictures) > 100
    for number in range(part, len(pictures), PARTS):
        tree, stores = pictures[number]
        FakeCarrier.stores = copy.deepcopy(stores)
        runs = laid(tree, tmp_path / str(number))
        assert [*differences(gone_on(small, runs, capsys), unbroken)] == [], f"picture {number}"
        assert_complete(runs, capsys)


@pytest.mark.parametrize("part", SOME)
def test_a_write_that_is_cut_off_at_any_kind_of_byte_costs_nothing(filmed, small, tmp_path, capsys, part):
    unbroken, pictures = filmed
    cut = [
        (what, tree, stores)
        for (before, stores), (after, _) in itertools.pairwise(pictures)
        for what, tree in torn(before, after)
    ]
    assert len(cut) > 100
    for number in range(part, len(cut), PARTS):
        what, tree, stores = cut[number]
        FakeCarrier.stores = copy.deepcopy(stores)
        resumed = gone_on(small, laid(tree, tmp_path / str(number)), capsys)
        assert [*differences(resumed, unbroken)] == [], what
