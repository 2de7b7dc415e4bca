"""What a search leaves that has nothing to show: every trial diverged or failed."""

import pytest
from ray.tune.logger import JsonLoggerCallback

from analysis.rows import read_rows
from trainables.trainable import LoraTrainable
from tuning import search
from tuning.cli import main
from tuning.record import Record

pytestmark = pytest.mark.slow


def test_a_search_where_all_diverge_ends_with_a_report_and_status_1(tune, runs):
    done = tune("--num-samples", 4, "--scale", "1e30", "--runs-dir", runs, "--name", "diverged")
    assert done.returncode == 1, done.stderr
    rows = read_rows(runs / "diverged" / "rows.jsonl")
    assert {row.status for row in rows} == {"diverged"}
    for row in rows:
        assert row.final_eval_loss is row.test_loss is None
        assert all(word in row.error for word in ("learning rate", "1e+30", "float32", "at step"))
    report = (runs / "diverged" / "report.md").read_text()
    assert "no trial finished with a loss, so none is best" in report
    assert not (runs / "diverged" / "best_adapter").exists()


def _raising_trainable():
    class Raising(LoraTrainable):  # local, so that it travels to the trial's process by value
        def step(self):
            raise RuntimeError("no trial gets past this")

    return Raising


def test_trials_that_all_fail_leave_a_report_and_status_1_and_none_of_their_pickles_is_loaded(
    small, four, runs, tmp_path, monkeypatch, capfd, tracing_pickle
):
    planted = []

    class Planting(JsonLoggerCallback):
        def on_experiment_end(self, trials, **info):  # what Ray has written is in the run folder by now
            planted.extend((runs / "failed" / "ray").glob("*/*/error.pkl"))
            for path in planted:
                path.write_bytes(tracing_pickle(tmp_path / "trace"))

    monkeypatch.setattr(search, "JsonLoggerCallback", Planting)
    monkeypatch.setattr(search, "LoraTrainable", _raising_trainable())
    flags = ["--num-samples", "4", "--isolation", "process", "--max-failures", "0", "--name", "failed"]
    assert main([*small, *four, *flags, "--runs-dir", str(runs)]) == 1, capfd.readouterr().err
    rows = read_rows(runs / "failed" / "rows.jsonl")
    assert [row.status for row in rows] == ["failed"] * 4
    assert {row.error for row in rows} == {"RuntimeError: no trial gets past this"}
    assert len(planted) == 4
    assert not (tmp_path / "trace").exists()
    assert Record(runs / "failed").exit_status == 1
    report = (runs / "failed" / "report.md").read_text()
    assert "no trial finished with a loss, so none is best" in report
    assert all(f"| {row.experiment_name} " in report for row in rows)
    assert not (runs / "failed" / "best_adapter").exists()
