"""A search that is told to stop does so in order, and soon."""

import json
import os
import shutil
import signal
import time

import pytest

from analysis.rows import read_rows

pytestmark = pytest.mark.slow
FLAGS = ("--num-samples", 6, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0)
PATIENCE_SECONDS = 30


@pytest.mark.parametrize(
    ("kill", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.kill, signal.SIGINT)]
)
def test_a_signal_leaves_a_report_and_the_command_that_goes_on(tree, kill, number):
    """To the process alone, or to all of its group, Ray's processes among them."""
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


@pytest.mark.parametrize("isolation", ["packed", "process"])
def test_a_trial_that_is_stopped_between_two_reports_loses_no_step(tree, isolation, reported):
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


def test_a_second_sigint_ends_a_search_at_once(tree):
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


def test_sigterm_while_a_base_is_loaded_ends_at_once_and_leaves_nothing(tree):
    process = tree.new("loading", *MEASURED)
    _while_it_is_measured(tree, process)
    children = process.children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    assert tree.done(process)[::2] == (143, "Stopped before any trial began\n")
    assert time.monotonic() - began < 5
    assert not (tree.runs / "loading").exists()
    tree.assert_ended(children)


def test_sigterm_after_the_last_trial_leaves_a_report_and_a_search_that_can_be_ended(tree):
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


def test_sigint_before_a_search_has_begun_leaves_nothing(tree):
    process = tree.new("early", *FLAGS)
    tree.wait_for(lambda: any("libtorch" in part.path for part in process.memory_maps()))
    os.kill(process.pid, signal.SIGINT)
    status, _, errors = tree.done(process)
    assert status == 130, "whoever imports may not swallow it"
    assert errors.splitlines()[-1:] == ["Stopped before any trial began"]
    assert not (tree.runs / "early").exists()


def _after_its_first_trial(tree, name, *flags):
    process = tree.new(name, *flags)
    tree.wait_for(lambda: process.poll() is not None or (tree.runs / name / "rows.jsonl").exists())
    return process
