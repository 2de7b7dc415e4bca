"""Answers of MLflow that were lost, came late, or refuse for good."""

import json
import threading
import time

import pytest
from mlflow import MlflowClient

from tuning.tracking.mlflow_client import EXPERIMENT, PARENT, TRIAL_TAG, now_ms
from tuning.tracking.outbox import REFUSED

pytestmark = pytest.mark.server


def test_a_run_whose_creation_was_not_answered_is_not_made_again(search, proxy, server, healthy, monkeypatch, stored):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    created = []

    def answers_late(path):
        if "runs/create" in path:
            created.append(path)
            if len(created) < 3:
                time.sleep(4)

    proxy.after = answers_late
    search.begin()
    search.trials(0, 1)
    search.end()
    search.arrived()
    assert len(created) == 3
    search.close()
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)


def test_of_two_runs_that_a_late_creation_left_one_stays(search, proxy, server, healthy, monkeypatch, stored):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    created, asked_again = [], threading.Event()

    def late(path):
        if "runs/create" in path:
            created.append(path)
            if len(created) == 3:  # the second trial's: it is done, but only after it was asked for again
                assert asked_again.wait(60)
                time.sleep(1)
            elif len(created) == 4:
                asked_again.set()

    proxy.fault = late
    search.begin()
    search.trials(0, 1)
    search.arrived()
    time.sleep(3)
    assert len(created) == 4
    with pytest.raises(AssertionError, match="two runs of one trial"):
        stored(server.uri, search.id)
    search.end()
    search.arrived()
    search.sink.close(1000)  # as long as it takes to look once more
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)


def test_an_event_that_is_refused_for_good_holds_up_none(search, proxy, server, healthy, capsys, stored):
    search.begin()
    search.trials(0)
    search.arrived()
    client = MlflowClient(tracking_uri=server.uri)
    mine = f"tags.`{TRIAL_TAG}` = '{search.id}/t0'"
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], mine)
    client.delete_run(run.info.run_id)
    search.tracking.reported("t0", {"step": 9, "eval_loss": 1.0})
    search.sink.put("metrics", PARENT, values={"not\na name": 1.0}, step=0, time_ms=now_ms())
    search.sink.put("artifact", PARENT, path=str(search.run_dir / "gone"))
    search.trials(1)
    search.end()
    search.arrived()
    search.close()
    told = capsys.readouterr().err
    assert [told.count(f"{run}: MLflow refused") for run in ("t0", "parent", "t1")] == [1, 1, 0]
    refused = [json.loads(line) for line in (search.run_dir / REFUSED).read_text().splitlines()]
    assert [line["event"]["run"] for line in refused] == ["t0", PARENT, PARENT]
    assert all(line["reason"] for line in refused)

    client.restore_run(run.info.run_id)
    (search.run_dir / "gone").write_text("found")
    assert search.replay() == (2, 1)
    assert search.replay() == (0, 1)
    runs = stored(server.uri, search.id)
    assert [step for step, _, _ in runs[f"{search.id}/t0"]["metrics"]["eval_loss"]] == [0, 1, 2, 3, 9]
    assert runs[f"{search.id}/parent"]["artifacts"] == {("gone", 5)}
    assert runs[f"{search.id}/parent"]["status"] == runs[f"{search.id}/t1"]["status"] == "FINISHED"


def test_a_run_whose_start_was_refused_gets_it_by_a_replay(search, proxy, server, healthy, stored):
    refused = []

    def no_second_run(path):
        if "runs/create" in path:
            refused.append(path)
        return 404 if len(refused) == 2 and "runs/create" in path else None

    proxy.fault = no_second_run
    search.begin()
    search.trials(0)
    search.end()
    search.arrived()
    search.close()
    nameless = stored(server.uri, search.id)[f"{search.id}/t0"]
    assert (nameless["name"], nameless["params"], nameless["status"]) == ("t0", {}, "FINISHED")
    assert search.replay() == (1, 0)
    replayed, expected = stored(server.uri, search.id), healthy(search.run_dir, search.id)
    for runs in (replayed, expected):
        runs[f"{search.id}/t0"].pop("times")  # MLflow lets nobody change when a run began
    assert replayed == expected


def test_everything_once_more_changes_nothing(search, proxy, server, stored):
    search.begin()
    search.trials(0, 1)
    search.end()
    search.arrived()
    search.close()
    before = stored(server.uri, search.id)
    (search.run_dir / "mlflow-state.json").unlink()
    assert search.replay() == (17, 0)
    assert stored(server.uri, search.id) == before
