"""What a search leaves that has nothing to show: every trial diverged or failed."""

import pytest
from ray.tune.logger import JsonLoggerCallback

from analysis.results.rows import read_rows
from trainables.actors.packed_trainable import PackedTrainable
from tuning.cli import main
from tuning.state.record import Record
from tuning.trials import tuner

pytestmark = pytest.mark.search
DIVERGING = ("--num-samples", "4", "--scale", "1e30", "--name", "diverged")


def test_a_search_where_all_diverge_ends_with_a_report_and_status_1(simulated, small, tmp_path):
    assert main([*small, *DIVERGING, "--runs-dir", str(tmp_path)]) == 1
    check_diverged(tmp_path / "diverged")


@pytest.mark.thorough
def test_so_it_does_where_all_is_real_and_each_says_with_which_choices_it_diverged(shared_ray, small, tmp_path):
    assert main([*small, *DIVERGING, "--runs-dir", str(tmp_path)]) == 1
    for row in check_diverged(tmp_path / "diverged"):
        assert all(word in row.error for word in ("learning rate", "1e+30", "float32"))


def check_diverged(folder):
    rows = read_rows(folder / "rows.jsonl")
    assert [row.status for row in rows] == ["diverged"] * 4
    for row in rows:
        assert row.final_eval_loss is row.test_loss is None
        assert "at step" in row.error
    report = (folder / "report.md").read_text()
    assert "no trial finished with a loss, so none is best" in report
    assert not (folder / "best_adapter").exists()
    return rows


def raising(trainable):
    class Raising(trainable):  # local, so that it travels to the trial's process by value
        def step(self):
            raise RuntimeError("no trial gets past this")

    return Raising


@pytest.mark.thorough
def test_trials_that_all_fail_leave_a_report_and_status_1_and_none_of_their_pickles_is_loaded(
    fake_hosts, small, four, tmp_path, monkeypatch, capfd, tracing_pickle
):
    monkeypatch.setattr(tuner, "PackedTrainable", raising(PackedTrainable))
    check_failed([*small, *four, "--isolation", "packed"], tmp_path, monkeypatch, capfd, tracing_pickle)


@pytest.mark.thorough
def test_so_do_trials_that_train_in_processes_of_their_own(
    shared_ray, small, four, tmp_path, monkeypatch, capfd, tracing_pickle
):
    monkeypatch.setattr(tuner, "PackedTrainable", raising(PackedTrainable))
    check_failed([*small, *four, "--isolation", "process"], tmp_path, monkeypatch, capfd, tracing_pickle)


def check_failed(flags, runs, monkeypatch, capfd, tracing_pickle):
    folder, planted = runs / "failed", []

    class Planting(JsonLoggerCallback):
        def on_experiment_end(self, trials, **info):  # what Ray has written is in the run folder by now
            planted.extend((folder / "ray").glob("*/*/error.pkl"))
            for path in planted:
                path.write_bytes(tracing_pickle(runs / "trace"))

    monkeypatch.setattr(tuner, "JsonLoggerCallback", Planting)
    flags = [*flags, "--num-samples", "4", "--max-failures", "0", "--name", "failed", "--runs-dir", str(runs)]
    assert main(flags) == 1, capfd.readouterr().err
    rows = read_rows(folder / "rows.jsonl")
    assert [row.status for row in rows] == ["failed"] * 4
    assert {row.error for row in rows} == {"RuntimeError: no trial gets past this"}
    assert len(planted) == 4
    assert not (runs / "trace").exists()
    assert Record(folder).exit_status == 1
    report = (folder / "report.md").read_text()
    assert "no trial finished with a loss, so none is best" in report
    assert all(f"| {row.experiment_name} " in report for row in rows)
    assert not (folder / "best_adapter").exists()
