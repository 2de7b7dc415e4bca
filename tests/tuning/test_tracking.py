import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from analysis.rows import ResultRow, read_rows
from tuning.tracking import EXPERIMENT, PARENT, Sink, Tracking, now_ms, remaining

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(finished):
    """(client, parent, children) of the finished search."""
    client = MlflowClient(tracking_uri=f"sqlite:///{finished[1].parent}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    mine = [run for run in found if run.data.tags["rank_search.trial_id"].startswith("first/")]
    (parent,) = [run for run in mine if "mlflow.parentRunId" not in run.data.tags]
    return client, parent, [run for run in mine if run is not parent]


def test_a_search_is_one_parent_with_a_child_per_trial(store, finished):
    _, parent, children = store
    rows = {row.trial_id: row for row in read_rows(finished[1] / "rows.jsonl")}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.data.tags["rank_search.trial_id"] for child in children} == {f"first/{id_}" for id_ in rows}
    for child in children:
        row = rows[child.data.tags["rank_search.trial_id"].removeprefix("first/")]
        assert child.info.run_name == row.experiment_name
        assert child.data.tags["status"] == row.status
        assert child.data.tags["strategy"] == row.strategy
        assert child.info.status == {"finished": "FINISHED", "stopped": "KILLED"}[row.status]
        assert child.data.metrics["eval_loss"] == pytest.approx(row.final_eval_loss)
        assert len(child.data.params) < 10
        assert float(child.data.params["learning_rate"]) > 0


def test_metrics_have_their_steps(store, finished):
    client, _, children = store
    rows = {row.trial_id: row for row in read_rows(finished[1] / "rows.jsonl")}
    for child in children:
        row = rows[child.data.tags["rank_search.trial_id"].removeprefix("first/")]
        for name in ("train_loss", "eval_loss"):
            history = client.get_metric_history(child.info.run_id, name)
            assert [(m.step, m.value) for m in history] == [
                (report["step"], pytest.approx(report[name])) for report in row.history
            ]
        for name in ("perplexity", "tokens_per_second", "trainable_parameters", "parameter_efficiency", "peak_bytes"):
            assert child.data.metrics[name] > 0


def test_artifacts_lie_where_they_are_looked_for(store):
    client, parent, children = store
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        "plan.json", "facts.json", "report.md", "report.html", "figures", "rows.jsonl", "rows.csv",
    }  # fmt: skip
    with_adapter = 0
    for child in children:
        names = {item.path for item in client.list_artifacts(child.info.run_id)}
        assert names >= {"allocation.json", "ranks.png"}
        with_adapter += "adapter" in names
    assert with_adapter == 4


def test_the_parent_knows_plan_and_data(store):
    _, parent, _ = store
    assert parent.info.status == "FINISHED"
    assert parent.data.params["num_samples"] == "8"
    (given,) = parent.inputs.dataset_inputs
    assert parent.data.params["corpus_sha256"].startswith(given.dataset.digest)


def _events(tracking):
    """One trial's life."""
    tracking.sink.put("start", PARENT, name="search", params={"a": 1}, tags={"status": "running"}, time_ms=now_ms())
    tracking.started("t1", "baseline_t1", {"strategy": "baseline", "baseline": {"learning_rate": 0.1}, "seed": 0})
    tracking.reported("t1", {"step": 5, "eval_loss": 2.0, "train_loss": float("nan")})
    tracking.ended(ResultRow("t1", "baseline_t1", "baseline", "diverged", error="step 5"))


def test_what_an_absent_server_missed_is_replayed_once_it_is_there(tmp_path, mlflow_server, free_port, capsys):
    port = free_port()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    sink = Sink(run_dir, f"http://127.0.0.1:{port}", None)
    began = time.monotonic()
    _events(Tracking(sink))
    assert time.monotonic() - began < 0.5
    assert not sink.close(8)
    assert remaining(run_dir) == 4
    assert capsys.readouterr().err.count("cannot be reached") == 1

    mlflow_server(port, f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/files")
    command = [sys.executable, "-m", "tuning.tracking", "replay", str(run_dir)]
    done = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert done == ["4 events carried\n", "0 events carried\n"]
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    (child,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 2
    assert child.data.tags["mlflow.parentRunId"] in {run.info.run_id for run in runs}
    assert (child.info.status, child.data.tags["status"], child.data.tags["error"]) == ("FAILED", "diverged", "step 5")
    assert child.data.metrics == {"eval_loss": 2.0, "perplexity": pytest.approx(7.389, abs=1e-3)}


def test_a_replay_that_was_cut_off_makes_no_second_run(tmp_path):
    """The first event arrived, but the process died before it could note that."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        (run_dir / "mlflow-spool.jsonl").unlink(missing_ok=True)
        sink = Sink(run_dir, uri, (tmp_path / "files").as_uri())
        _events(Tracking(sink))
        assert sink.close(60)
    client = MlflowClient(tracking_uri=uri)
    assert len(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])) == 2
