"""Events of a search on their way to MLflow: what it has of them, and what damage to the outbox costs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, TrialConfig
from tests.fakes import mlflow
from tests.fakes.outbox import CONFIG, begin, end, one_life, outbox_without_mlflow
from tuning.tracking.events import Tracking, open_sink, remaining, replay
from tuning.tracking.mlflow_client import EXPERIMENT, PARENT, TRIAL_TAG, now_ms
from tuning.tracking.outbox import OUTBOX, STATE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local(tmp_path_factory, empty_mlflow):
    """Where a local MLflow keeps its database and its artifacts."""
    folder = tmp_path_factory.mktemp("local")
    shutil.copy(empty_mlflow, folder)
    return f"sqlite:///{folder}/mlflow.db", (folder / "files").as_uri()


AGAIN = TrialConfig("baseline", "c1", Phase.CONFIRM, learning_rate=0.1, seed=0)


def _stored(local, run_dir):
    """MLflow's runs of a search, by what they are in it; no two may be the same."""
    client = MlflowClient(tracking_uri=local[0])
    listed = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    mine = [run for run in listed if run.data.tags[TRIAL_TAG].startswith(f"{run_dir.name}/")]
    runs = {run.data.tags[TRIAL_TAG].removeprefix(f"{run_dir.name}/"): run for run in mine}
    assert len(runs) == len(mine)
    return runs


def _losses(local, run):
    history = MlflowClient(tracking_uri=local[0]).get_metric_history(run.info.run_id, "eval_loss")
    return [(metric.step, metric.value) for metric in history]


def test_a_trial_is_a_run_with_its_parameters_metrics_and_end(local, run_dir):
    sink = open_sink(run_dir, *local)
    one_life(sink)
    assert sink.close()
    runs = _stored(local, run_dir)
    child = runs["t1"]
    assert set(runs) == {PARENT, "t1"}
    assert child.data.tags["mlflow.parentRunId"] == runs[PARENT].info.run_id
    assert (child.info.status, child.data.tags["status"], child.data.tags["error"]) == ("FAILED", "diverged", "step 10")
    assert child.data.params == {"strategy": "baseline", "trial_id": "t1", "seed": "0", "learning_rate": "0.1"}
    assert child.data.metrics == {"eval_loss": 1.0, "perplexity": pytest.approx(2.718, abs=1e-3)}
    assert _losses(local, child) == [(5, 2.0), (10, 1.0)]


def test_a_trial_that_the_scheduler_stops_is_finished_with_its_outcome_and_every_run_knows_its_data(local, run_dir):
    sink = open_sink(run_dir, *local)
    tracking = Tracking(sink, ("texts.jsonl", "d" * 64))
    begin(sink)
    tracking.open_group("confirm")
    for trial, status in (("t1", "stopped"), ("t2", "finished"), ("t3", "failed")):
        tracking.started(replace(CONFIG, trial_id=trial))
        tracking.ended(ResultRow(trial, trial, "baseline", status))
    assert sink.close()
    runs = _stored(local, run_dir)
    ended = {trial: (runs[trial].info.status, runs[trial].data.tags["outcome"]) for trial in ("t1", "t2", "t3")}
    assert ended == {"t1": ("FINISHED", "stopped"), "t2": ("FINISHED", "finished"), "t3": ("FAILED", "failed")}
    for run in ("t1", "t2", "t3", "confirm"):
        (given,) = runs[run].inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("texts.jsonl", "d" * 36)


@pytest.mark.parametrize("objective", ["loss", "loss,params"])
def test_the_view_of_a_search_has_what_all_its_trials_have_and_no_test_loss(local, run_dir, objective):
    sink = open_sink(run_dir, *local)
    sink.put("start", PARENT, name="mine", params={"objective": objective}, tags={"kind": "search"}, time_ms=1)
    assert sink.close()
    tags = MlflowClient(tracking_uri=local[0]).get_experiment_by_name(EXPERIMENT).tags
    columns = json.loads(tags[f"mlflow.sharedViewState.{run_dir.name}"])["selectedColumns"]
    assert ("params.`budget_share`" in columns) is (objective == "loss,params")
    assert {"metrics.`eval_loss`", "params.`learning_rate`", "tags.`status`"} <= {*columns}
    assert not [name for name in columns if "test" in name]


def test_a_resumed_search_has_one_run_per_trial_one_value_per_step_and_none_left_running(local, run_dir, wait_for):
    sink = open_sink(run_dir, *local)
    tracking = Tracking(sink)
    begin(sink)
    for trial in ("t1", "t2", "t3"):
        tracking.started(replace(CONFIG, trial_id=trial))
        tracking.reported(trial, {"step": 5, "eval_loss": 2.0})
    tracking.ended(ResultRow("t1", "t1", "baseline", "finished"))
    tracking.open_group("confirm")
    tracking.started(AGAIN)
    tracking.interrupted()
    assert sink.close()
    stopped = _stored(local, run_dir)
    assert {name: (run.info.status, run.data.tags["status"]) for name, run in stopped.items()} == {
        PARENT: ("KILLED", "interrupted"), "t1": ("FINISHED", "finished"), "t2": ("KILLED", "interrupted"),
        "t3": ("KILLED", "interrupted"), "confirm": ("KILLED", "interrupted"), "c1": ("KILLED", "interrupted"),
    }  # fmt: skip

    sink = open_sink(run_dir, *local)
    tracking = Tracking(sink)
    begin(sink)
    for trial in ("t1", "t2"):  # t3 is not gone on with
        tracking.started(replace(CONFIG, trial_id=trial))
        tracking.reported(trial, {"step": 5, "eval_loss": 2.0})
    assert not sink.history.news({"kind": "start", "run": "t1", "tags": {}})
    tracking.reported("t2", {"step": 10, "eval_loss": 1.0})
    tracking.open_group("confirm")
    tracking.started(AGAIN)
    wait_for(lambda: not sink.outbox.remaining())
    going = _stored(local, run_dir)
    assert {name for name, run in going.items() if run.info.status == "RUNNING"} == {PARENT, "t2", "confirm", "c1"}
    assert going["t2"].data.tags["status"] == "running"
    for trial in ("t1", "t2", "c1"):
        tracking.ended(ResultRow(trial, trial, "baseline", "finished"))
    tracking.close_group("confirm")
    end(sink)
    assert sink.close()
    done = _stored(local, run_dir)
    ids = {name: run.info.run_id for name, run in done.items()}
    assert ids == {name: run.info.run_id for name, run in stopped.items()}
    assert {name for name, run in done.items() if run.info.status != "FINISHED"} == {"t3"}
    assert _losses(local, done["t1"]) == [(5, 2.0)]
    assert _losses(local, done["t2"]) == [(5, 2.0), (10, 1.0)]
    assert done["c1"].data.tags["mlflow.parentRunId"] == done["confirm"].info.run_id


def test_what_a_killed_search_left_open_ends_with_the_one_that_goes_on(local, run_dir):
    sink = open_sink(run_dir, *local)
    begin(sink)
    Tracking(sink).started(CONFIG)
    sink.close()
    sink = open_sink(run_dir, *local)
    begin(sink)
    sink.end_open_runs(now_ms(), but=PARENT)
    end(sink)
    assert sink.close()
    runs = _stored(local, run_dir)
    assert {name: run.info.status for name, run in runs.items()} == {PARENT: "FINISHED", "t1": "KILLED"}


def _flip(path, line, byte):
    """Change one byte of a line; -1 is its last before the end."""
    lines = path.read_bytes().split(b"\n")
    changed = bytearray(lines[line - 1])
    changed[byte] ^= 1
    lines[line - 1] = bytes(changed)
    path.write_bytes(b"\n".join(lines))


FLIPS = pytest.mark.parametrize(("line", "byte"), [(line, byte) for line in range(1, 8) for byte in (2, 9, 30, -3)])


@FLIPS
def test_a_flipped_byte_costs_its_line_and_is_named(line, byte, local, run_dir, capsys, monkeypatch):
    store = mlflow.install(monkeypatch)
    check_flip(line, byte, local, run_dir, capsys)
    runs = store[run_dir.name]
    assert (set(runs), runs["t1"].parent) == ({PARENT, "t1"}, PARENT)
    assert list(runs["t1"].metrics["eval_loss"].items()) == LEFT.get(line, REPORTED)
    assert runs["t1"].status == ("RUNNING" if line == 6 else "FAILED")
    assert replay(run_dir) == (0, 0)


@pytest.mark.thorough
@FLIPS
def test_so_it_does_where_mlflow_is_real(line, byte, local, run_dir, capsys):
    check_flip(line, byte, local, run_dir, capsys)
    runs = _stored(local, run_dir)
    assert set(runs) == {PARENT, "t1"}
    assert runs["t1"].data.tags["mlflow.parentRunId"] == runs[PARENT].info.run_id
    assert _losses(local, runs["t1"]) == LEFT.get(line, REPORTED)
    assert runs["t1"].info.status == ("RUNNING" if line == 6 else "FAILED")
    assert replay(run_dir) == (0, 0)


REPORTED = [(5, 2.0), (10, 1.0)]
LEFT = {4: [(10, 1.0)], 5: [(5, 2.0)]}
"""Line that is lost -> the losses that are left."""


def check_flip(line, byte, local, run_dir, capsys):
    path = outbox_without_mlflow(run_dir, local)
    _flip(path, line, byte)
    carried, refused = replay(run_dir)
    assert (carried, refused) == ((6, 0) if line == 1 else (5, 0))
    named = capsys.readouterr().err
    assert len(named.splitlines()) == 1
    assert f"{path}: line {line}: " in named


def test_an_outbox_that_is_cut_off_gives_the_rest_and_can_go_on(local, run_dir, capsys):
    path = outbox_without_mlflow(run_dir, local)
    path.write_bytes(path.read_bytes()[:-20])
    assert replay(run_dir) == (5, 0)
    assert capsys.readouterr().err == f"{path}: line 7: cut off, or no JSON; the others are carried\n"
    assert _stored(local, run_dir)[PARENT].info.status == "RUNNING"
    sink = open_sink(run_dir, *local)
    end(sink)
    assert sink.close()
    assert _stored(local, run_dir)[PARENT].info.status == "FINISHED"
    assert remaining(run_dir) == 0


@pytest.mark.parametrize("eighths", range(8))
def test_of_an_outbox_that_is_cut_off_anywhere_each_whole_line_is_carried(eighths, local, run_dir, capsys, monkeypatch):
    mlflow.install(monkeypatch)
    path = outbox_without_mlflow(run_dir, local)
    kept = path.read_bytes()[: path.stat().st_size * eighths // 8]
    path.write_bytes(kept)
    assert replay(run_dir) == (max(0, kept.count(b"\n") - 1), 0), "the first line is the outbox's own"
    assert len(capsys.readouterr().err.splitlines()) == (bool(kept) and not kept.endswith(b"\n"))


@pytest.mark.parametrize("harm", ["flipped", "cut off", "gone", "empty", "too far"])
def test_a_damaged_state_is_named_and_everything_is_sent_again(harm, local, run_dir, capsys):
    sink = open_sink(run_dir, *local)
    one_life(sink)
    assert sink.close()
    before = {name: run.to_dictionary() for name, run in _stored(local, run_dir).items()}
    path = run_dir / STATE
    if harm == "flipped":
        _flip(path, 1, 16)
    elif harm == "too far":
        state = json.loads(path.read_text())
        path.write_text(
            json.dumps({key: value for key, value in state.items() if key != "checksum"} | {"done_bytes": 9**9})
        )
    else:
        path.write_bytes({"cut off": path.read_bytes()[:40], "empty": b"", "gone": b""}[harm])
    if harm == "gone":
        path.unlink()
    assert replay(run_dir) == (6, 0)
    named = capsys.readouterr().err
    assert len(named.splitlines()) == (0 if harm == "gone" else 1)
    assert harm == "gone" or str(path if harm != "too far" else run_dir / OUTBOX) in named
    assert {name: run.to_dictionary() for name, run in _stored(local, run_dir).items()} == before
    assert _losses(local, _stored(local, run_dir)["t1"]) == [(5, 2.0), (10, 1.0)]


def test_an_outbox_from_before_checksums_and_of_another_name_is_carried(local, run_dir):
    target = {"done_bytes": 0, "uri": local[0], "artifacts": local[1]}
    (run_dir / STATE).write_text(json.dumps(target))
    start = {"kind": "start", "run": PARENT, "name": "old", "params": {}, "tags": {"status": "running"}, "time_ms": 1}
    end = {"kind": "end", "run": PARENT, "status": "FINISHED", "tags": {"status": "finished"}, "time_ms": 2}
    (run_dir / "mlflow-spool.jsonl").write_text(f"{json.dumps(start)}\n{json.dumps(end)}\n")
    assert replay(run_dir) == (2, 0)
    assert not (run_dir / OUTBOX).exists()
    assert _stored(local, run_dir)[PARENT].info.status == "FINISHED"


def test_a_search_that_was_known_by_its_folder_stays_so(local, run_dir):
    for identity in (None, "an id that it has only now"):
        sink = open_sink(run_dir, *local, search=identity)
        one_life(sink)
        assert sink.close()
    assert set(_stored(local, run_dir)) == {PARENT, "t1"}
    assert sink.outbox.target.search == run_dir.name


def test_another_server_gets_everything(local, run_dir, tmp_path, empty_mlflow):
    sink = open_sink(run_dir, *local)
    one_life(sink)
    assert sink.close()
    shutil.copy(empty_mlflow, tmp_path / "other.db")
    other = (f"sqlite:///{tmp_path}/other.db", (tmp_path / "files").as_uri())
    sink = open_sink(run_dir, *other)
    end(sink)
    assert sink.outbox.remaining() == 6
    sink.wake.set()
    assert sink.close()
    assert set(_stored(other, run_dir)) == {PARENT, "t1"}
