"""What MLflow has of a real search."""

import json

import pytest
from mlflow import MlflowClient

from analysis.rows import read_rows
from tuning.carrier import EXPERIMENT, TRIAL_TAG

pytestmark = pytest.mark.slow


def _prefix(finished):
    return json.loads((finished[1] / "facts.json").read_text())["search_id"] + "/"


@pytest.fixture(scope="module")
def store(finished):
    """(client, parent, children) of the finished search."""
    client = MlflowClient(tracking_uri=f"sqlite:///{finished[1].parent}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    mine = [run for run in found if run.data.tags[TRIAL_TAG].startswith(_prefix(finished))]
    (parent,) = [run for run in mine if "mlflow.parentRunId" not in run.data.tags]
    return client, parent, [run for run in mine if run is not parent]


def test_a_search_is_one_parent_with_a_child_per_trial(store, finished):
    _, parent, children = store
    rows = {row.trial_id: row for row in read_rows(finished[1] / "rows.jsonl")}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.data.tags[TRIAL_TAG] for child in children} == {_prefix(finished) + id_ for id_ in rows}
    assert parent.info.run_name == "first"
    for child in children:
        row = rows[child.data.tags[TRIAL_TAG].removeprefix(_prefix(finished))]
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
        row = rows[child.data.tags[TRIAL_TAG].removeprefix(_prefix(finished))]
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
