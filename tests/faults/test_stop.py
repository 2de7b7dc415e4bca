"""A search that is told to stop does so in order, and soon."""

import errno
import json
import os
import shutil
import signal
import time

import pytest
from ray.exceptions import RaySystemError

from analysis.results.rows import read_rows
from tests.fakes import mlflow, ray_tune
from tests.fakes.trial import FakeSession
from tuning.results import finalize

FLAGS = ("--num-samples", 6, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0)
PATIENCE_SECONDS = 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_search_that_is_told_to_stop_leaves_a_report_and_the_command_that_goes_on(
    simulated, small, told, tmp_path, monkeypatch, number
):
    with monkeypatch.context() as patch:
        ray_tune.at(patch, lambda harvest: harvest.record.rows, lambda: os.kill(os.getpid(), number))
        status, out, errors = told(*small, *FLAGS, "--runs-dir", tmp_path, "--name", "stopped")
    assert (status, errors) == (128 + number, "")
    again = f"To go on: python tune.py --resume stopped --runs-dir {tmp_path}\n"
    ended = read_rows(tmp_path / "stopped" / "rows.jsonl")
    assert out.endswith(f"Stopped with {len(ended)} of 6 trials ended; nothing of them is lost. {again}")
    report = (tmp_path / "stopped" / "report.md").read_text()
    assert all(f"| {row.experiment_name} " in report for row in ended)
    (stored,) = simulated.values()
    assert {run.status for run in stored.values()} == {"FINISHED", "KILLED"}
    status, _, errors = told("--resume", "stopped", "--runs-dir", tmp_path)
    assert (status, errors) == (0, "")
    rows = read_rows(tmp_path / "stopped" / "rows.jsonl")
    assert sorted(row.trial_id for row in rows) == [f"t00{number}" for number in range(1, 7)]
    assert 1 <= len(ended) < 6
    assert (tmp_path / "stopped" / "best_adapter" / "adapter_model.safetensors").is_file()


def test_a_closed_terminal_ends_no_search_that_nohup_has_started(simulated, small, told, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ray_tune.at(monkeypatch, lambda harvest: harvest.record.rows, lambda: os.kill(os.getpid(), signal.SIGHUP))
    try:
        status, _, errors = told(*small, *FLAGS, "--runs-dir", tmp_path, "--name", "on")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (status, errors) == (0, "")
    assert len(read_rows(tmp_path / "on" / "rows.jsonl")) == 6


def test_what_a_trial_has_trained_since_its_last_report_is_where_it_goes_on(
    simulated, small, told, tmp_path, monkeypatch, reported
):
    """Two reports of six steps; the signal comes three steps after the first."""
    flags = ("--strategies", "baseline", "--num-samples", 1, "--reports", 2, "--epochs", 6, "--batch-size", 8)
    train = FakeSession.train

    def cut_short(session, steps):
        if session.learner.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            train(session, 3)
            ray_tune.running[0].run.stop.stop_all()
            raise ray_tune.Killed
        return train(session, steps)

    with monkeypatch.context() as patch:
        patch.setattr(FakeSession, "train", cut_short)
        with pytest.raises(ray_tune.Killed):
            told(*small, *flags, "--runs-dir", tmp_path, "--name", "between")
    mlflow.cut_off()
    saved = (tmp_path / "between" / "ray").glob("*/*/checkpoint_*/session/session.json")
    assert sorted(json.loads(path.read_text())["step"] for path in saved) == [6, 9]
    status, _, errors = told("--resume", "between", "--runs-dir", tmp_path)
    assert (status, errors) == (0, "")
    (row,) = read_rows(tmp_path / "between" / "rows.jsonl")
    assert reported(tmp_path / "between") == {row.trial_id: [6, 12]}, "from the first checkpoint it would repeat 6"


def test_a_second_signal_ends_the_process_at_once(simulated, small, told, tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "_exit", end)
    ray_tune.at(monkeypatch, lambda harvest: harvest.record.reports, twice)
    with pytest.raises(Ended, match="130"):
        told(*small, *FLAGS, "--runs-dir", tmp_path, "--name", "twice")
    mlflow.cut_off()


def test_a_signal_after_the_last_trial_leaves_a_report_and_a_search_that_can_be_ended(
    simulated, small, told, tmp_path, monkeypatch
):
    folder = tmp_path / "ending"
    again = f"To go on: python tune.py --resume ending --runs-dir {tmp_path}\n"
    with monkeypatch.context() as patch:
        patch.setattr(finalize.trial_files, "write", lambda run_dir, rows, check: (stopping_now(), check()))
        status, out, errors = told(*small, *FLAGS, "--runs-dir", tmp_path, "--name", "ending")
    assert (status, errors) == (143, "")
    assert out.endswith(f"Stopped with 6 of 6 trials ended; nothing of them is lost. {again}")
    rows = read_rows(folder / "rows.jsonl")
    report = (folder / "report.md").read_text()
    assert all(f"| {row.experiment_name} " in report for row in rows)
    status, _, errors = told("--resume", "ending", "--runs-dir", tmp_path)
    assert (status, errors) == (0, "")
    assert read_rows(folder / "rows.jsonl") == rows
    assert (folder / "best_adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error", "/a/b"), "/a/b"),
        (RaySystemError("gone"), "gone"),
    ],
)
def test_what_ends_a_search_after_its_last_trial_leaves_as_much_of_a_report_as_it_lets_be_written(
    simulated, small, told, tmp_path, monkeypatch, error, said
):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(finalize.trial_files, "write", fail)
        status, _, errors = told(*small, *FLAGS, "--runs-dir", tmp_path, "--name", "broken")
    assert status == 5
    (line,) = errors.splitlines()
    assert said in line
    assert line.endswith(f"to go on: python tune.py --resume broken --runs-dir {tmp_path}")
    report = (tmp_path / "broken" / "report.md").read_text()
    assert all(f"| {row.experiment_name} " in report for row in read_rows(tmp_path / "broken" / "rows.jsonl"))


def stopping_now():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.process
@pytest.mark.thorough
def test_a_signal_to_all_of_a_searchs_process_group_stops_it_in_order_and_leaves_no_process(tree):
    tree.step_seconds = 0.05
    process = _after_its_first_trial(tree, "stopped", *FLAGS)
    children, began = process.children(recursive=True), time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    status, out, errors = tree.done(process)
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert (status, errors) == (143, "")
    assert f"python tune.py --resume stopped --runs-dir {tree.runs}" in out
    ended = read_rows(tree.runs / "stopped" / "rows.jsonl")
    assert 1 <= len(ended) < 6
    report = (tree.runs / "stopped" / "report.md").read_text()
    assert all(f"| {row.experiment_name} " in report for row in ended)
    tree.assert_ended(children)


@pytest.mark.process
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kill", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.kill, signal.SIGINT)]
)
def test_a_real_search_that_a_signal_stops_leaves_a_report_and_goes_on(tree, kill, number):
    """To the process alone, or to all of its group, Ray's processes among them."""
    tree.script = "tune.py"
    process = _after_its_first_trial(tree, "stopped", *FLAGS)
    began = time.monotonic()
    kill(process.pid, number)
    status, out, errors = tree.done(process)
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert (status, errors) == (128 + number, "")
    assert f"python tune.py --resume stopped --runs-dir {tree.runs}" in out
    ended = read_rows(tree.runs / "stopped" / "rows.jsonl")
    report = (tree.runs / "stopped" / "report.md").read_text()
    assert all(f"| {row.experiment_name} " in report for row in ended)
    status, out, errors = tree.done(tree.start("--resume", "stopped"))
    assert (status, errors) == (0, "")
    rows = read_rows(tree.runs / "stopped" / "rows.jsonl")
    assert sorted(row.trial_id for row in rows) == [f"t00{number}" for number in range(1, 7)]
    assert 1 <= len(ended) < 6
    assert (tree.runs / "stopped" / "best_adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.process
@pytest.mark.thorough
@pytest.mark.parametrize("isolation", ["packed", "process"])
def test_a_real_trial_that_is_stopped_between_two_reports_loses_no_step(tree, isolation, reported):
    tree.script = "tune.py"
    flags = ("--strategies", "baseline", "--num-samples", 1, "--confirm-seeds", 0, "--reports", 2, "--epochs", 1000)
    process = tree.new("between", *flags, "--isolation", isolation)
    record = tree.runs / "between" / "record.jsonl"
    tree.wait_for(lambda: record.exists() and b'"reported"' in record.read_bytes())
    tree.wait_for(lambda: [*(tree.runs / "between" / "ray").glob("*/*/checkpoint_*/session/session.json")])
    time.sleep(1)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert tree.done(process)[0] == 143
    assert time.monotonic() - began < PATIENCE_SECONDS
    saved = (tree.runs / "between" / "ray").glob("*/*/checkpoint_*/session/session.json")
    steps = sorted(json.loads(path.read_text())["step"] for path in saved)
    assert len(steps) == 2
    assert steps[0] < steps[1] < 2 * steps[0], "one at the first report, one on the way to the second"
    assert tree.done(tree.start("--resume", "between"))[0] == 0
    (row,) = read_rows(tree.runs / "between" / "rows.jsonl")
    # from the first checkpoint it would have reported that step once more
    assert reported(tree.runs / "between") == {row.trial_id: [steps[0], 2 * steps[0]]}
    assert [report["step"] for report in row.history] == [steps[0], 2 * steps[0]]


@pytest.mark.process
@pytest.mark.thorough
def test_a_second_sigint_ends_a_search_at_once(tree):
    tree.step_seconds = 0.01
    process = tree.new("interrupted", *FLAGS, "--epochs", 4000)
    record = tree.runs / "interrupted" / "record.jsonl"
    tree.wait_for(lambda: record.exists() and b'"began"' in record.read_bytes())
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    children = process.children(recursive=True)
    assert process.poll() is None
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 5:
        os.kill(process.pid, signal.SIGINT)  # one that comes before the first is heard is none of its own
        time.sleep(0.3)
    assert process.poll() == 130
    assert "Stopped with" not in tree.printed(process)[0], "it did not end in order"
    tree.assert_ended(children)


MEASURED = ("--num-samples", 6, "--strategies", "baseline", "--strategies", "empirical", "--confirm-seeds", 0)


def _while_it_is_measured(tree, process):
    """Wait until Ray is there; then the base is loaded, and what strategies score from is measured."""
    tree.wait_for(lambda: process.poll() is not None or "Ray dashboard" in tree.printed(process)[0])


@pytest.mark.process
@pytest.mark.thorough
def test_sigterm_while_a_base_is_loaded_ends_at_once_and_leaves_nothing(tree):
    tree.script = "tune.py"
    process = tree.new("loading", *MEASURED)
    _while_it_is_measured(tree, process)
    children = process.children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    assert tree.done(process)[::2] == (143, "Stopped before any trial began\n")
    assert time.monotonic() - began < 5
    assert not (tree.runs / "loading").exists()
    tree.assert_ended(children)


@pytest.mark.process
@pytest.mark.thorough
def test_sigterm_after_the_last_trial_leaves_a_report_and_a_search_that_can_be_ended(tree):
    tree.script = "tune.py"
    process = tree.new("ending", *MEASURED)
    tree.wait_for(lambda: process.poll() is not None or (tree.runs / "ending" / "trials").exists())
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    status, out, errors = tree.done(process)
    assert (status, errors) == (143, "")
    assert time.monotonic() - began < PATIENCE_SECONDS
    again = f"To go on: python tune.py --resume ending --runs-dir {tree.runs}\n"
    assert out.endswith(f"Stopped with 6 of 6 trials ended; nothing of them is lost. {again}")
    rows = read_rows(tree.runs / "ending" / "rows.jsonl")
    report = (tree.runs / "ending" / "report.md").read_text()
    assert all(f"| {row.experiment_name} " in report for row in rows)
    shutil.rmtree(tree.runs / ".evidence")
    process = tree.start("--resume", "ending")
    _while_it_is_measured(tree, process)
    os.kill(process.pid, signal.SIGTERM)
    assert tree.done(process)[::2] == (143, f"Stopped. {again}")
    status, out, errors = tree.done(tree.start("--resume", "ending"))
    assert (status, errors) == (0, "")
    assert read_rows(tree.runs / "ending" / "rows.jsonl") == rows
    assert (tree.runs / "ending" / "best_adapter" / "adapter_model.safetensors").is_file()


def _imports(process):
    return any("_raylet" in part.path for part in process.memory_maps())


def _has_a_ray(process):
    return any("raylet" in part.name() for part in process.children())


@pytest.mark.process
@pytest.mark.parametrize("begun", [_imports, pytest.param(_has_a_ray, marks=pytest.mark.thorough)])
def test_sigint_before_a_search_has_begun_leaves_nothing(tree, begun):
    tree.script = "tune.py"  # the other imports before it hears signals
    process = tree.new("early", *FLAGS)
    tree.wait_for(lambda: begun(process))
    os.kill(process.pid, signal.SIGINT)
    status, _, errors = tree.done(process)
    assert status == 130, "whoever imports may not swallow it"
    assert errors.splitlines()[-1:] == ["Stopped before any trial began"]
    assert not (tree.runs / "early").exists()


def _after_its_first_trial(tree, name, *flags):
    process = tree.new(name, *flags)
    tree.wait_for(lambda: process.poll() is not None or (tree.runs / name / "rows.jsonl").exists())
    return process
