"""What may be taken up again, and what may not."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from analysis.results.rows import append_row, read_rows
from analysis.results.run_info import RunInfo
from tests.fakes import ray_tune
from trainables.data import lengths
from tuning.cli import main
from tuning.results import finalize
from tuning.state.record import Record

ROOT = Path(__file__).parents[2]


def refused(capsys, folder, *flags):
    """Try to take a search up, and return the one line that says why not."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    status = main(["--resume", folder.name, "--runs-dir", str(folder.parent), *map(str, flags)])
    captured = capsys.readouterr()
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert (status, "Report" in captured.out, len(captured.err.splitlines())) == (2, False, 1)
    assert {path: time for path, time in after.items() if path.is_file() and path.name != ".lock"} == {
        path: time for path, time in before.items() if path.is_file() and path.name != ".lock"
    }
    return captured.err


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        (("--budget-rank", 4), "--budget-rank is None, not 4"),
        (("--scheduler", "fifo"), "--scheduler is asha, not fifo"),
        (("--seed", 3), "--seed is 0, not 3"),
        (("--num-samples", 9), "--num-samples is 8, not 9"),
        (("--model", "bundled"), "--model is "),
        (("--dataset", "pydoc", "--epochs", 2), "--epochs is 3.0, not 2.0"),
    ],
)
def test_other_choices_are_refused_by_name(copied, capsys, flags, culprit):
    line = refused(capsys, copied, *flags)
    assert culprit in line
    assert "--allow-changes" in line


def test_another_version_of_a_library_is_refused_by_name(copied, capsys, monkeypatch):
    record = Record(copied)
    planned = record.plans[-1]
    record.planned(**{**planned, "versions": {**planned["versions"], "torch": "1.0"}})
    assert "torch was 1.0, is 2." in refused(capsys, copied)


def test_other_texts_and_another_base_are_refused_by_name(copied, capsys):
    record = Record(copied)
    planned = record.plans[-1]
    plan = {**planned["plan"], "corpus_sha256": "0" * 64}
    (copied / "plan.json").write_text(json.dumps(plan, indent=2) + "\n")
    record.planned(**{**planned, "plan": plan, "base_sha256": "1" * 64})
    line = refused(capsys, copied)
    assert "the texts had SHA-256 000000000000, now " in line
    assert "the base model had SHA-256 111111111111, now " in line


def test_a_search_that_is_not_there_is_refused_with_those_that_are(copied, capsys):
    assert main(["--resume", "frist", "--runs-dir", str(copied.parent)]) == 2
    assert "there are first" in capsys.readouterr().err
    assert main(["--resume", "../first", "--runs-dir", str(copied.parent)]) == 2
    assert main(["--extend", "3", "--runs-dir", str(copied.parent)]) == 2
    assert "--resume NAME" in capsys.readouterr().err


def test_a_search_is_extended_in_two_goes_and_then_complete(simulated, told, small, tmp_path, monkeypatch):
    """The first go is cut off; what the search left when it was complete stays until there is something better."""
    flags = ("--num-samples", 4, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 2)
    status, _, errors = told(*small, *flags, "--runs-dir", tmp_path, "--name", "some")
    assert status == 0, errors
    folder, again = tmp_path / "some", ("--resume", "some", "--runs-dir", tmp_path)
    first, adapter, curve = read_rows(folder / "rows.jsonl"), _contents(folder / "best_adapter"), _curve(folder)
    assert len(curve) > 1
    trials, runs = _in_optuna(folder), _parents(simulated, folder)
    monkeypatch.setattr(sys, "argv", ["tune.py", "--resume", "some", "--extend", "4"])
    with monkeypatch.context() as patch:
        ray_tune.at(patch, lambda harvest: len(harvest.record.of_phase("search")) == 5, _terminate)
        status, _, errors = told(*again, "--extend", 4)
    assert (status, errors) == (143, "")
    assert _contents(folder / "best_adapter") == adapter
    assert _curve(folder) == curve
    status, _, errors = told(*again)
    assert (status, errors) == (0, "")
    assert (folder / "best_adapter" / "adapter_model.safetensors").is_file()
    rows = read_rows(folder / "rows.jsonl")
    searched = [row for row in rows if row.phase == "search"]
    assert searched[:4] == [row for row in first if row.phase == "search"]
    assert sorted(row.trial_id for row in searched) == [f"t00{number}" for number in range(1, 9)]
    confirmed = [row for row in rows if row.phase == "confirm"]
    assert len(confirmed) == 2 * 4
    best = {row.config["source"] for row in confirmed if row.strategy == "linear_decay"}
    assert best == {min(_full(searched, "linear_decay"), key=lambda row: row.final_eval_loss).trial_id}
    facts = json.loads((folder / "facts.json").read_text())
    assert len(facts["continued"]) == 2
    assert "--extend 4" in facts["continued"][0]
    assert facts["looks"] == 2
    assert "judged 2 times on the same test split" in (folder / "report.md").read_text()
    assert "**Total Experiments:** 8" in (folder / "report.md").read_text()
    heard = _in_optuna(folder)
    assert heard[: len(trials)] == trials
    assert sorted(attrs["trial_id"] for *_, attrs in heard if "trial_id" in attrs) == sorted(
        r.trial_id for r in searched
    )
    logged = _parents(simulated, folder)
    assert logged | runs == logged
    assert [*logged.values()].count(None) == 1
    assert {row.trial_id for row in rows} <= logged.keys()


def _terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _curve(folder):
    """Return the winner at fewer parameters, as the report reads it."""
    return RunInfo.of_run(folder, "now").shrink


def _in_optuna(folder):
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    study = optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(journal))
    return [(trial.params, trial.state, trial.values, trial.user_attrs) for trial in study.trials]


def _parents(stores, folder):
    """Return what each run of a search is called in MLflow -> its parent."""
    stored = stores[json.loads((folder / "facts.json").read_text())["search_id"]]
    return {name: run.parent for name, run in stored.items()}


def _full(rows, strategy):
    return [row for row in rows if row.strategy == strategy and row.status == "finished"]


@pytest.mark.process
def test_a_search_that_another_process_runs_is_not_taken_up(copied, capsys):
    holding = "import sys, time, pathlib; from tuning.state.continuation import locked\n"
    holding += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", holding, str(copied)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            assert "another process runs this search now" in refused(capsys, copied)
        finally:
            process.kill()
    assert main(["--resume", "first", "--runs-dir", str(copied.parent)]) == 0, "a killed one holds no lock"


def test_a_search_of_a_name_that_is_taken_is_refused(copied, small, capsys):
    assert main([*small, "--name", "first", "--runs-dir", str(copied.parent)]) == 2
    assert f"--name first: {copied} exists; choose another name, or --resume first" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.thorough
def test_a_search_that_runs_is_not_run_twice_and_a_killed_one_holds_no_lock(tree):
    flags = ("--num-samples", 4, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0)
    tree.step_seconds = 0.01
    process = tree.new("one", *flags, "--epochs", 500)
    tree.wait_for(lambda: process.poll() is not None or (tree.runs / "one" / "record.jsonl").exists())
    process.suspend()  # so that it still runs once the others ask
    for second in (tree.start("--resume", "one"), tree.new("one", *flags)):
        status, out, errors = tree.done(second)
        assert (status, "Report" in out, len(errors.splitlines())) == (2, False, 1), errors
        assert "another process runs this search now" in errors or "exists" in errors
    tree.kill(process)
    tree.step_seconds = 0.0
    status, _, errors = tree.done(tree.start("--resume", "one"))
    assert (status, errors) == (0, "")
    assert len(read_rows(tree.runs / "one" / "rows.jsonl")) == 4


def test_a_search_that_began_before_it_took_20_test_documents_confirms_as_it_began(
    simulated, killed, told, tmp_path, monkeypatch
):
    flags = ("--strategies", "baseline", "--strategies", "linear_decay", "--num-samples", 2, "--confirm-seeds", 1,
             "--test-examples", 8, "--runs-dir", tmp_path)  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(lengths, "enough_to_test", lambda prepared: True)
        killed(lambda harvest: harvest.record.rows, *flags, "--name", "old")
    status, _, errors = told("--resume", "old", "--runs-dir", tmp_path)
    assert (status, errors) == (0, "")
    assert Counter(row.phase for row in read_rows(tmp_path / "old" / "rows.jsonl"))["confirm"] >= 2


def test_an_unfinished_trial_begins_anew_where_changes_give_it_other_ranks(killed, told, tmp_path, reported):
    flags = ("--num-samples", 2, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0)
    named = ("--runs-dir", tmp_path, "--name", "other")
    killed(
        lambda harvest: len(harvest.record.reports.get("t002", {})) == 2,
        *flags, *named, "--max-concurrent-trials", 1, "--scheduler", "fifo",
    )  # fmt: skip
    folder = tmp_path / "other"
    before = reported(folder)
    resumed = ("--resume", "other", "--runs-dir", tmp_path, "--budget-rank", 4, "--allow-changes")
    status, out, errors = told(*resumed)
    assert (status, errors) == (0, "")
    assert "begins anew: what it has kept is of another base or other ranks" in out
    rows = read_rows(folder / "rows.jsonl")
    assert [row.status for row in rows] == ["finished"] * 2
    assert not any(row.restarts for row in rows)
    again = next(row for row in rows if row.trial_id == "t002")
    assert again.trainable_parameters == 2048
    steps = [report["step"] for report in again.history]
    assert len(before["t002"]) == 2
    assert reported(folder)["t002"] == before["t002"] + steps


def test_changes_that_are_allowed_are_recorded_also_where_no_room_is_left_for_the_report(
    simulated, copied, capsys, monkeypatch
):
    def full(rows, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_rows = finalize.write_rows
    monkeypatch.setattr(finalize, "write_rows", full)
    monkeypatch.setattr(sys, "argv", ["tune.py", "--resume", "first", "--allow-changes"])
    flags = ["--resume", "first", "--runs-dir", str(copied.parent)]
    assert main([*flags, "--scheduler", "fifo", "--allow-changes"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {copied}: No space left on device: no room left, ")
    assert "at least 5 MB needed to go on; free some, then: python tune.py --resume first" in line
    assert Record(copied).plans[-1]["changes"] == ["--scheduler is asha, not fifo"]
    assert json.loads((copied / "plan.json").read_text())["scheduler"] == "fifo"
    assert (copied / "best_adapter" / "adapter_model.safetensors").is_file()
    monkeypatch.setattr(finalize, "write_rows", write_rows)
    assert main(flags) == 0, capsys.readouterr().err
    assert read_rows(copied / "rows.csv") == read_rows(copied / "rows.jsonl")


@pytest.mark.parametrize("place", ["rows.csv", "search.log", ".lock", "ray", "ray/search-1", "trials", "best_adapter"])
def test_a_search_whose_folder_a_link_leads_out_of_is_not_taken_up(simulated, copied, capsys, place):
    outside = copied.parent.parent / "mine"
    outside.mkdir()
    path = copied / place
    (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    path.symlink_to(outside)
    line = refused(capsys, copied, "--margin", "0.5", "--allow-changes")
    assert f"{path}: a link that leads out of {copied}" in line
    assert [*outside.iterdir()] == []


def test_a_row_whose_id_is_a_path_writes_nowhere_else(simulated, copied, capsys):
    (row, *_) = read_rows(copied / "rows.jsonl")
    append_row(replace(row, trial_id="../../../X"), copied / "rows.jsonl")
    assert main(["--resume", "first", "--runs-dir", str(copied.parent), "--margin", "0.5", "--allow-changes"]) == 0
    assert "trial_id must be a name" in capsys.readouterr().err
    assert not any(path.name == "X" for path in copied.parent.parent.rglob("*"))


def test_a_card_is_written_into_no_folder_but_those_that_a_search_hands_out(simulated, copied, capsys):
    outside = copied.parent.parent / "mine"
    outside.mkdir()
    (outside / "README.md").write_text("mine")
    facts = json.loads((copied / "facts.json").read_text())
    (copied / "facts.json").write_text(json.dumps(facts | {"handed_out": {str(outside): 1.5, "../../mine": 1.5}}))
    line = refused(capsys, copied, "--margin", "0.5", "--allow-changes")
    assert f"{copied / 'facts.json'}: handed_out: String should match" in line
    assert (outside / "README.md").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named_and_is_no_full_disk(simulated, copied, capsys):
    (copied / "rows.csv").unlink()
    (copied / "rows.csv").mkdir()
    flags = ["--resume", "first", "--runs-dir", str(copied.parent)]
    assert main([*flags, "--scheduler", "fifo", "--allow-changes"]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    again = f"python tune.py --resume first --runs-dir {copied.parent}"
    assert line == f"Error: {copied / 'rows.csv'}: Is a directory; to go on: {again}"
    (copied / "rows.csv").rmdir()
    assert main(flags) == 0, capsys.readouterr().err
    assert read_rows(copied / "rows.csv") == read_rows(copied / "rows.jsonl")


OLD = Path(__file__).parents[1] / "data" / "run-2026-11-27"
"""A simulated search that was killed after two of its four trials; of the code before modules moved into rooms."""


def test_a_search_of_an_older_version_is_read_and_goes_on(simulated, told, tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    again = ("--resume", "old", "--runs-dir", tmp_path)
    assert "lora-rank-search was 0.1.0+aaf2ee349ca2, is " in told(*again)[2], (
        "another version of the code is another circumstance"
    )
    status, out, errors = told(*again, "--allow-changes")
    assert (status, errors) == (0, "")
    assert (tmp_path / "old" / "rows.jsonl").read_bytes().startswith((OLD / "rows.jsonl").read_bytes())
    rows = read_rows(tmp_path / "old" / "rows.jsonl")
    assert Counter(row.phase for row in rows) == {"search": 4, "confirm": 4}, out
    assert len({row.trial_id for row in rows}) == len(rows)
    (stored,) = simulated.values()
    assert not [run for run in stored.values() if run.status == "RUNNING"]
    assert (tmp_path / "old" / "report.html").is_file()
