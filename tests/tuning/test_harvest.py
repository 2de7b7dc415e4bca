import json
import math
import os
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow.fs import LocalFileSystem
from ray.exceptions import RayTaskError
from ray.tune import ResultGrid
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.trainable.metadata import _TrainingRunMetadata

from analysis.results.rows import read_rows
from analysis.results.trial_config import TrialConfig
from tuning.callbacks.trial_callback import Harvest, row_from
from tuning.lifecycle.stop import FULL, Stop
from tuning.state.record import Record

CONFIG = {"strategy": "baseline", "baseline": {"learning_rate": 0.1}, "seed": 0, "trial_id": "t1"}
REPORT = {
    "status": "finished", "eval_loss": 2.0, "train_loss": 2.5, "test_loss": 2.2, "step": 8, "seconds": 1.5,
    "tokens": 64, "trainable_parameters": 10, "parameter_efficiency": 0.1, "fan_in_fan_out": True,
    "allocation": json.dumps({"ranks": {"h.0.a": 1}, "alphas": {"h.0.a": 2.0}}),
}  # fmt: skip


def trial(last, error_file=None):
    made = SimpleNamespace(trial_id="Ray's", config=CONFIG, last_result=last, error_file=error_file)
    made.run_metadata = _TrainingRunMetadata()
    for name, value in last.items():
        if isinstance(value, float):
            made.run_metadata.update_metric(name, value)
    return made


def run(harvest, *reports, end="on_trial_complete", error_file=None):
    """Lead one trial through its life as Ray does."""
    one = trial(reports[-1] if reports else {}, error_file)
    if reports:
        harvest.on_trial_start(0, [], one)
    for report in reports:
        harvest.on_trial_result(0, [], one, report)
    getattr(harvest, end)(0, [], one)
    return harvest.record.rows["t1"]


@pytest.fixture
def harvest(tmp_path):
    return Harvest(Record(tmp_path), Stop(tmp_path, 0))


def test_a_finished_trial_is_a_full_row_on_disk_when_it_ends(harvest, tmp_path):
    row = run(harvest, {**REPORT, "status": "running", "eval_loss": 3.0, "step": 4}, REPORT)
    assert (row.status, row.final_eval_loss, row.final_perplexity, row.test_loss) == ("finished", 2.0, math.exp(2), 2.2)
    assert (row.ranks, row.alphas, row.fan_in_fan_out) == ({"h.0.a": 1}, {"h.0.a": 2.0}, True)
    assert [report["eval_loss"] for report in row.history] == [3.0, 2.0]
    assert read_rows(tmp_path / "rows.jsonl") == [row]


def test_a_trial_that_was_running_at_its_last_report_was_stopped(harvest):
    row = run(harvest, {**REPORT, "status": "running", "test_loss": None})
    assert (row.status, row.final_eval_loss, row.test_loss) == ("stopped", 2.0, None)


def test_a_diverged_trial_keeps_its_cause_and_has_no_loss(harvest):
    report = {**REPORT, "status": "diverged", "eval_loss": math.nan, "error": "at step 4"}
    row = run(harvest, report)
    assert (row.status, row.final_eval_loss, row.final_perplexity, row.error) == ("diverged", None, None, "at step 4")
    assert row.history[-1]["eval_loss"] is None


@pytest.mark.parametrize(("phase", "status", "loss"), [("search", "finished", 2.0), ("confirm", "diverged", None)])
def test_no_search_decides_by_a_test_loss_and_no_comparison_leaves_out_one_that_is_not_finite(phase, status, loss):
    report = {**REPORT, "test_loss": math.nan, "test_documents": "[[NaN, 3]]", "error": "test loss nan at step 8"}
    row = row_from(TrialConfig.from_ray({**CONFIG, "phase": phase}), report, ())
    assert (row.status, row.final_eval_loss, row.test_loss, row.test_documents) == (status, loss, None, None)
    assert row.error == "test loss nan at step 8"


def raised(error):
    """Return what a driver hears of an error in a trial."""
    try:
        raise error
    except Exception as caught:
        return RayTaskError("Trainable.train", traceback.format_exc(), caught)


def told(folder, *errors):
    """Have Ray write down how a trial failed, and return where."""
    storage = SimpleNamespace(trial_driver_staging_path=str(folder))
    one = Trial("train", stub=True, storage=storage, _setup_default_resource=False)
    for error in errors:
        one.handle_error(error)
    return one.error_file


def test_a_trial_that_failed_before_it_started_is_a_row_with_its_last_cause(harvest, tmp_path):
    errors = (KeyError("before"), RuntimeError("no answer from http://me:geheim@there\nand more"))
    row = run(harvest, end="on_trial_error", error_file=told(tmp_path, *map(raised, errors)))
    assert (row.status, row.strategy) == ("failed", "baseline")
    assert row.error == "RuntimeError: no answer from http://***@there"
    assert row.ranks is row.final_eval_loss is row.tokens is None


def test_resource_events_are_kept_once_each_and_say_nothing_about_the_trial(harvest):
    events = [json.dumps(["8 did not fit"]), json.dumps(["8 did not fit", "4 did not fit"])]
    row = run(harvest, *({**REPORT, "resource_events": event} for event in (*events, None)))
    assert list(harvest.record.resource_events) == ["8 did not fit", "4 did not fit"]
    assert (row.status, row.error) == ("finished", None)


def test_a_trial_taken_up_again_keeps_what_it_reported_before(tmp_path):
    first = Harvest(Record(tmp_path), Stop(tmp_path, 0))
    one = trial({**REPORT, "status": "running", "eval_loss": 3.0, "step": 4})
    first.on_trial_start(0, [], one)
    first.on_trial_result(0, [], one, one.last_result)
    first.on_trial_recover(0, [], one)
    again = Harvest(Record(tmp_path), Stop(tmp_path, 0))
    row = run(again, {**REPORT, "status": "running", "eval_loss": 3.0, "train_loss": None, "step": 4}, REPORT)
    assert [(r["step"], r["eval_loss"], r["train_loss"]) for r in row.history] == [(4, 3.0, 2.5), (8, 2.0, 2.5)]
    assert (row.restarts, row.config) == (1, {name: CONFIG[name] for name in CONFIG if name != "trial_id"})


@pytest.mark.parametrize("error", FULL)
def test_a_trial_whose_disk_was_full_has_not_ended_and_the_search_stops(harvest, tmp_path, error):
    one = trial(REPORT, told(tmp_path, raised(OSError(error, os.strerror(error)))))
    harvest.on_trial_error(0, [], one)
    assert harvest.record.rows == {}
    assert harvest.stop.stop_all()
    assert f"trial t1: OSError: [Errno {error}] {os.strerror(error)}: no room left" in harvest.stop.shortage


def test_a_search_stops_before_its_disk_is_full(tmp_path):
    stop = Stop(tmp_path, 2**60)
    harvest = Harvest(Record(tmp_path), stop)
    harvest.on_trial_result(0, [], trial(REPORT), REPORT)
    assert str(tmp_path) in stop.shortage
    harvest.on_trial_complete(0, [], trial(REPORT))
    assert harvest.record.rows == {}, "what is not on disk has not happened"


def test_a_record_that_cannot_be_written_stops_the_search_and_is_no_full_disk(harvest, tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    one = trial(REPORT)
    harvest.on_trial_start(0, [], one)
    harvest.on_trial_complete(0, [], one)
    assert harvest.stop.stop_all()
    assert (harvest.stop.shortage, harvest.stop.failure) == (None, f"{tmp_path / 'rows.jsonl'}: Is a directory")


def test_a_record_that_has_no_room_stops_the_search_for_want_of_it(harvest, tmp_path):
    """A device that is always full stands for the disk."""
    (tmp_path / "record.jsonl").symlink_to("/dev/full")
    harvest.on_trial_result(0, [], trial(REPORT), REPORT)
    assert harvest.stop.failure is None
    assert harvest.stop.shortage.startswith(f"{tmp_path / 'record.jsonl'}: No space left on device: no room left, ")


def test_a_folder_that_is_gone_stops_the_search_in_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    harvest = Harvest(Record(tmp_path / "run"), Stop(tmp_path / "run", 0))
    (tmp_path / "run").rmdir()
    harvest.on_trial_result(0, [], trial(REPORT), REPORT)
    harvest.on_trial_complete(0, [], trial(REPORT))
    assert harvest.stop.failure == f"{tmp_path / 'run'}: No such file or directory"
    assert harvest.record.rows == {}


def test_what_fails_after_a_trial_has_ended_does_not_undo_its_end(harvest, tmp_path):
    """Ray's own files, say, which are written after ours."""
    row = run(harvest, REPORT)
    harvest.on_trial_error(0, [], trial(REPORT, told(tmp_path, TuneError("result.json"))))
    assert Record(tmp_path).rows == {"t1": row}


def test_of_a_failed_trial_ray_loads_no_pickle_once_the_search_ends(harvest, tmp_path, tracing_pickle):
    folder = {"trial_driver_staging_path": str(tmp_path), "trial_fs_path": str(tmp_path)}
    storage = SimpleNamespace(**folder, storage_filesystem=LocalFileSystem())
    one = Trial("train", stub=True, storage=storage, _setup_default_resource=False)
    one.handle_error(raised(RuntimeError("no luck")))
    Path(one.pickled_error_file).write_bytes(tracing_pickle(tmp_path / "trace"))
    ResultGrid._populate_exception(one)
    assert (tmp_path / "trace").exists(), "Ray loads it no more: on_experiment_end can go"
    (tmp_path / "trace").unlink()
    harvest.on_experiment_end([one])
    assert "RuntimeError: no luck" in ResultGrid._populate_exception(one)
    assert not (tmp_path / "trace").exists()


def test_rays_statistics_of_a_trial_end_with_it(harvest):
    one = trial(REPORT)
    assert "eval_loss" in one.run_metadata.get_json_state()
    harvest.on_trial_start(0, [], one)
    harvest.on_trial_complete(0, [], one)
    assert one.run_metadata.metric_analysis == one.run_metadata.metric_n_steps == {}
    assert "eval_loss" not in one.run_metadata.get_json_state()


def test_a_loss_too_large_for_a_perplexity_has_none():
    row = row_from(TrialConfig.from_ray(CONFIG), {**REPORT, "eval_loss": 1e4}, ())
    assert (row.final_eval_loss, row.final_perplexity) == (1e4, None)


@pytest.mark.parametrize("error", [OSError("no space"), SystemExit("no space")])
def test_a_listener_that_raises_harms_nobody(tmp_path, capsys, error):
    """``rich`` ends the process where nobody reads any more."""

    class Broken:
        def __getattr__(self, name):
            raise error

    heard = []

    class Good:
        def started(self, *facts):
            heard.append("started")

        def reported(self, *facts):
            heard.append("reported")

        def ended(self, row):
            heard.append(row.status)

    run(Harvest(Record(tmp_path), Stop(tmp_path, 0), [Broken(), Good()]), REPORT)
    assert heard == ["started", "reported", "finished"]
    assert f"Broken failed: {type(error).__name__}: no space" in capsys.readouterr().err


def test_a_row_is_on_disk_before_anybody_is_told_of_it(tmp_path):
    class Listener:
        def __getattr__(self, name):
            return lambda *facts: heard.append((name, (tmp_path / "rows.jsonl").exists()))

    heard = []
    run(Harvest(Record(tmp_path), Stop(tmp_path, 0), [Listener()]), REPORT)
    assert heard == [("started", False), ("reported", False), ("ended", True)]


def test_nobody_is_told_of_a_row_that_could_not_be_written(tmp_path):
    class Listener:
        def __getattr__(self, name):
            return lambda *facts: heard.append(name)

    heard = []
    (tmp_path / "rows.jsonl").mkdir()
    harvest = Harvest(Record(tmp_path), Stop(tmp_path, 0), [Listener()])
    with pytest.raises(KeyError):
        run(harvest, REPORT)
    assert heard == ["started", "reported"]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"strategy": "baseline", "baseline": {"learning_rate": 0.012345}}, "baseline_lr0.012_t1"),
        ({"strategy": "baseline", "baseline": {"learning_rate": 2e-5}}, "baseline_lr2e-05_t1"),
        ({"strategy": "shuffled", "shuffled": {"learning_rate": 0.1}, "seed": 4, "phase": "confirm"}, "t1"),
        ({"strategy": "baseline", "official": "baseline_rank8_official"}, "t1"),
        ({"strategy": "baseline"}, "baseline_t1"),
    ],
)
def test_a_trials_name_says_what_it_tries(config, name):
    assert TrialConfig.from_ray({**config, "trial_id": "t1"}).name == name
