"""What stands for MLflow in tests keeps what MLflow keeps."""

import dataclasses
import json
import shutil

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from tests.fakes.mlflow import FakeCarrier
from tuning.cli import main
from tuning.tracking.mlflow_client import EXPERIMENT, PARENT, PARENT_TAG, TRIAL_TAG, MlflowCarrier
from tuning.tracking.mlflow_compat import TABLES
from tuning.tracking.outbox import TARGET, Outbox, Target
from tuning.tracking.uploader import FILES

TRIAL = {"name": "baseline_t1", "params": {"learning_rate": 0.1, "seed": 1}, "time_ms": 2}
TAGS = {"strategy": "baseline", "status": "running"}
METRICS = {"kind": "metrics", "run": "t1", "time_ms": 3}
END = {"kind": "end", "run": "t1", "time_ms": 4}
RESUMED = [
    {"kind": "start", "run": PARENT, "name": "mine", "params": {"a": None}, "tags": {"kind": "search"}, "time_ms": 1},
    {"kind": "dataset", "run": PARENT, "name": "lines.txt", "digest": "0" * 64},
    {"kind": "start", "run": "t1", **TRIAL, "tags": TAGS, "parent": PARENT},
    {**METRICS, "values": {"eval_loss": 2.0, "train_loss": 2.5}, "step": 5},
    {**END, "status": "KILLED", "tags": {"status": "interrupted"}},
    {"kind": "end", "run": PARENT, "status": "KILLED", "tags": {"status": "interrupted"}, "time_ms": 4},
    {"kind": "reopen", "run": PARENT},
    {"kind": "reopen", "run": "t1"},
    {**METRICS, "values": {"eval_loss": 1.0}, "step": 10},
    {**END, "status": "FAILED", "tags": {"status": "diverged", "error": "at step 10"}},
]  # fmt: skip


@pytest.fixture
def carriers(tmp_path, empty_mlflow, monkeypatch):
    """(one that is MLflow's, one that stands for it)."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.setattr(FakeCarrier, "stores", {})
    target = Target(f"sqlite:///{tmp_path}/mlflow.db", (tmp_path / "files").as_uri(), "mine")
    return MlflowCarrier(target), FakeCarrier(target)


def kept_by_mlflow(real):
    """What MLflow has, in the words of what stands for it."""
    client = MlflowClient(tracking_uri=real.client.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = {run.info.run_id: run for run in client.search_runs([experiment], run_view_type=ViewType.ALL)}
    names = {id_: run.data.tags[TRIAL_TAG].removeprefix("mine/") for id_, run in runs.items()}
    return {
        names[id_]: {
            "name": run.info.run_name,
            "parent": names.get(run.data.tags.get(PARENT_TAG)),
            "status": run.info.status,
            "params": run.data.params,
            "tags": {key: run.data.tags[key] for key in run.data.tags if not key.startswith(("mlflow.", TRIAL_TAG))},
            "metrics": {
                metric: {point.step: point.value for point in client.get_metric_history(id_, metric)}
                for metric in run.data.metrics
            },
            "artifacts": files(client, id_),
            "datasets": {(given.dataset.name, given.dataset.digest) for given in run.inputs.dataset_inputs},
            "tables": {table["path"] for table in json.loads(run.data.tags.get(TABLES, "[]"))},
        }
        for id_, run in runs.items()
    }  # fmt: skip


def files(client, run, folder=None):
    paths = set()
    for item in client.list_artifacts(run, folder):
        paths |= files(client, run, item.path) if item.is_dir else {item.path}
    return paths


def kept_by_fake(fake):
    return {name: dataclasses.asdict(run) for name, run in fake.runs.items()}


def both_keep_the_same(carriers, events, times=1):
    for event in events:
        for _ in range(times):
            for carrier in carriers:
                carrier.apply(event)
    real, fake = kept_by_mlflow(carriers[0]), kept_by_fake(carriers[1])
    assert fake == real
    return real


@pytest.mark.parametrize("times", [1, 2])
def test_a_search_that_was_resumed_is_kept_the_same_also_if_every_event_comes_twice(carriers, times):
    runs = both_keep_the_same(carriers, RESUMED, times)
    assert runs["t1"]["metrics"]["eval_loss"] == {5: 2.0, 10: 1.0}
    assert (runs[PARENT]["status"], runs["t1"]["status"], runs["t1"]["parent"]) == ("RUNNING", "FAILED", PARENT)


@pytest.mark.parametrize("lost", range(len(RESUMED)))
def test_whichever_event_is_lost_the_others_are_kept_the_same(carriers, lost):
    both_keep_the_same(carriers, [*RESUMED[:lost], *RESUMED[lost + 1 :]])


def test_a_start_that_comes_again_when_all_is_over_is_kept_the_same(carriers):
    runs = both_keep_the_same(carriers, [*RESUMED, *RESUMED[:3]])
    assert (runs["t1"]["status"], runs["t1"]["tags"]["status"]) == ("FAILED", "diverged")


@pytest.mark.search
def test_all_that_a_search_says_is_kept_the_same(carriers, simulated, small, tmp_path):
    flags = ("--num-samples", "4", "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", "2")
    assert main([*small, *flags, "--runs-dir", str(tmp_path), "--name", "first"]) == 0
    events = [
        {**event, "path": str(tmp_path / "first" / event["path"])} if event["kind"] in FILES else event
        for event in Outbox(tmp_path / "first").events()
        if event["kind"] != TARGET
    ]
    assert {event["kind"] for event in events} == {"start", "dataset", "metrics", "artifact", "table", "end"}
    runs = both_keep_the_same(carriers, events)
    assert {runs[name]["parent"] for name in runs} == {None, PARENT, "confirm"}
    assert "report.md" in runs[PARENT]["artifacts"]
