"""What MLflow has of a real search."""

import json
import shutil

import pytest
from mlflow import MlflowClient

from analysis.results.rows import read_rows
from tuning.tracking.mlflow_client import EXPERIMENT, PARENT, TRIAL_TAG

pytestmark = pytest.mark.process


def _prefix(finished):
    return json.loads((finished.folder / "facts.json").read_text())["search_id"] + "/"


@pytest.fixture(scope="module")
def rows(finished):
    """Trial id -> row, of all phases."""
    return {row.trial_id: row for row in read_rows(finished.folder / "rows.jsonl")}


@pytest.fixture(scope="module")
def stored(finished, tmp_path_factory):
    """(client, what a run is in the search -> the run); no two are the same."""
    # of a copy: whoever opens it may change the file
    database = shutil.copy(finished.folder.parent / "mlflow.db", tmp_path_factory.mktemp("mlflow"))
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    listed = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert all(run.data.tags[TRIAL_TAG].startswith(_prefix(finished)) for run in listed)
    runs = {run.data.tags[TRIAL_TAG].removeprefix(_prefix(finished)): run for run in listed}
    assert len(runs) == len(listed)
    return client, runs


@pytest.fixture(scope="module")
def store(stored, rows):
    """(client, parent, a child per trial)."""
    client, runs = stored
    return client, runs[PARENT], [runs[trial] for trial in rows]


def test_a_search_is_one_parent_with_a_child_per_trial_and_those_that_confirm_in_a_group(stored, rows, finished):
    _, runs = stored
    parent, group = runs[PARENT], runs["confirm"]
    assert runs.keys() == {PARENT, "confirm", *rows}
    assert "mlflow.parentRunId" not in parent.data.tags
    assert group.data.tags["mlflow.parentRunId"] == parent.info.run_id
    for trial, row in rows.items():
        expected = parent if row.phase == "search" else group
        assert runs[trial].data.tags["mlflow.parentRunId"] == expected.info.run_id
    assert parent.info.run_name == "first"
    assert {run.info.status for run in runs.values() if run.data.tags.get("phase") == "confirm"} == {"FINISHED"}
    told = parent.data.tags["verdict linear_decay"]
    assert f"  linear_decay: {told}. " in finished.done.stdout


def test_a_trials_run_says_of_it_what_its_row_says(store, rows, finished):
    _, _, children = store
    for child in children:
        row = rows[child.data.tags[TRIAL_TAG].removeprefix(_prefix(finished))]
        assert child.info.run_name == row.experiment_name
        assert child.data.tags["status"] == row.status
        assert child.data.tags["strategy"] == row.strategy
        assert child.info.status == "FINISHED", "a red cross stands for what went wrong, and nothing did"
        assert child.data.tags["outcome"] == row.status
        assert child.data.metrics["eval_loss"] == pytest.approx(row.final_eval_loss)
        assert len(child.data.params) < (10 if row.phase == "search" else 12)
        assert float(child.data.params["learning_rate"]) > 0


def test_metrics_have_their_steps(store, rows, finished):
    client, _, children = store
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
        "plan.json", "facts.json", "report.md", "report.html", "verdict.json", "figures", "rows.jsonl", "rows.csv",
        "samples.json",
    }  # fmt: skip
    with_adapter = 0
    for child in children:
        names = {item.path for item in client.list_artifacts(child.info.run_id)}
        assert names >= {"allocation.json", "ranks.png"}
        with_adapter += "adapter" in names
    assert with_adapter == 7  # one of each strategy, and the run to use


def test_every_run_knows_its_data(stored):
    _, runs = stored
    digest = runs[PARENT].data.params["corpus_sha256"]
    for run in runs.values():
        (given,) = run.inputs.dataset_inputs
        assert given.dataset.name == runs[PARENT].data.params["dataset"]
        assert given.dataset.digest
        assert digest.startswith(given.dataset.digest)


def test_the_parent_knows_plan_and_data(store):
    _, parent, _ = store
    assert parent.info.status == "FINISHED"
    assert parent.data.params["num_samples"] == "12"
    (given,) = parent.inputs.dataset_inputs
    assert parent.data.params["corpus_sha256"].startswith(given.dataset.digest)
