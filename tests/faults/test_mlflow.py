"""A real MLflow server that is down, slow, failing, frozen, killed or forgetful; the search must not notice."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.rows import ResultRow
from tuning.spool import REFUSED, Target, lock
from tuning.tracking import (
    EXPERIMENT,
    PARENT,
    PARENT_TAG,
    TRIAL_TAG,
    MlflowCarrier,
    Tracking,
    now_ms,
    open_sink,
    replay,
)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
REPORTS = 4


class Server:
    """``mlflow server`` on a port of its own, with SQLite behind it."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, _free_port(), None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
             "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
             "--artifacts-destination", f"{self.folder}/files"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        for _ in range(400):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise TimeoutError("the MLflow server does not answer")

    def send(self, number):
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


class Proxy:
    """Stands before the server and fails as it is told; ``down`` closes the port."""

    def __init__(self, server):
        self.port, self.http = _free_port(), None
        self.uri, proxy = f"http://127.0.0.1:{self.port}", self
        self.fault = self.after = None

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status = proxy.fault(self.path) if proxy.fault else None
                if status:
                    found, content = status, b"the proxy says no"
                else:
                    onward = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                    onward.request(self.command, self.path, body, dict(self.headers))
                    answer = onward.getresponse()
                    found, content = answer.status, answer.read()
                    onward.close()
                if proxy.after:
                    proxy.after(self.path)
                self.send_response(found)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *words):
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client):
                pass  # the other side did not wait

        self.listener = lambda: Listener(("127.0.0.1", self.port), Handler)

    def up(self):
        self.fault = self.after = None
        if self.http is None:
            self.http = self.listener()
            threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def down(self):
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()
            self.http = None


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.send(signal.SIGKILL)


@pytest.fixture(scope="module")
def gate(server):
    made = Proxy(server)
    yield made
    made.down()


@pytest.fixture
def proxy(gate, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    gate.up()
    yield gate
    gate.up()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """What an MLflow that never failed has of a spool's events: a function of the run folder and the search."""
    folder = tmp_path_factory.mktemp("healthy")

    def carried(run_dir, search):
        target = Target(f"sqlite:///{folder}/mlflow.db", (folder / "files").as_uri(), search)
        carrier = MlflowCarrier(target)
        for line in (run_dir / "mlflow-spool.jsonl").read_text().splitlines():
            event = json.loads(line)
            del event["checksum"]
            if event["kind"] != "target":
                carrier.apply(event)
        return stored(target.uri, search)

    return carried


def stored(uri, search):
    """All that MLflow has of a search, ids aside."""
    client = MlflowClient(tracking_uri=uri)
    runs = [
        run
        for run in client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        if run.data.tags[TRIAL_TAG].startswith(f"{search}/")
    ]
    names = {run.info.run_id: run.data.tags[TRIAL_TAG] for run in runs}
    assert len(set(names.values())) == len(runs), "two runs of one trial"
    return {
        names[run.info.run_id]: {
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": {key: names[value] if key == PARENT_TAG else value for key, value in run.data.tags.items()},
            "metrics": {
                key: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, key))
                for key in run.data.metrics
            },
            "datasets": [given.dataset.digest for given in run.inputs.dataset_inputs],
            "artifacts": {(f.path, f.file_size) for f in client.list_artifacts(run.info.run_id)},
        }
        for run in runs
    }


class Search:
    """What the pipeline does with a sink, without the training."""

    def __init__(self, tmp_path, uri):
        self.id, self.run_dir = uuid.uuid4().hex, tmp_path / "run"
        self.run_dir.mkdir()
        (self.run_dir / "report.md").write_text("a report")
        self.sink = open_sink(self.run_dir, uri, None, self.id)
        self.tracking = Tracking(self.sink)

    def begin(self):
        tags = {"kind": "search", "status": "running"}
        self.sink.put("start", PARENT, name="human", params={"num_samples": 4}, tags=tags, time_ms=now_ms())
        self.sink.put("dataset", PARENT, name="pydoc", digest="d" * 64)

    def trials(self, *numbers):
        for number in numbers:
            config = {"strategy": "baseline", "baseline": {"learning_rate": 0.1}, "seed": number}
            self.tracking.started(f"t{number}", f"baseline_{number}", config)
            for step in range(REPORTS):
                self.tracking.reported(f"t{number}", {"step": step, "eval_loss": 3.0 - step / 4, "seconds": 1.5})
            self.tracking.ended(ResultRow(f"t{number}", f"baseline_{number}", "baseline", "finished"))
            self.sink.put("artifact", f"t{number}", path=str(self.run_dir / "report.md"), folder="files")

    def end(self):
        self.sink.put("end", PARENT, status="FINISHED", tags={"status": "finished"}, time_ms=now_ms())

    def close(self):
        """Close as after a search of 20 seconds and return how long that took."""
        began = time.monotonic()
        self.sink.close(20)
        return time.monotonic() - began

    def arrived(self, seconds=90):
        """Wait until MLflow has everything so far."""
        until = time.monotonic() + seconds
        while self.sink.spool.remaining() and time.monotonic() < until:
            time.sleep(0.05)
        assert self.sink.spool.remaining() == 0

    def replay(self):
        self.sink.thread.join(90)
        return replay(self.run_dir)


@pytest.fixture
def search(tmp_path, proxy):
    return Search(tmp_path, proxy.uri)


def _command(run_dir):
    return subprocess.run(
        [sys.executable, "-m", "tuning.tracking", "replay", str(run_dir)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def _slowly(path):
    time.sleep(5)


FAULTS = {"slow": _slowly, "500": lambda path: 500, "401": lambda path: 401}


@pytest.mark.parametrize(
    ("fault", "when"),
    [
        ("down", "start"), ("down", "middle"), ("down", "end"), ("slow", "middle"), ("slow", "end"),
        ("500", "start"), ("500", "middle"), ("401", "middle"), ("401", "end"),
    ],
)  # fmt: skip
def test_what_a_failing_server_missed_is_replayed(fault, when, search, proxy, server, healthy, capsys):
    def fail():
        if fault == "down":
            proxy.down()
        else:
            proxy.fault = FAULTS[fault]

    if when == "start":
        fail()
    began = time.monotonic()
    search.begin()
    search.trials(0, 1)
    assert time.monotonic() - began < 1
    if when == "start":
        time.sleep(1)
        proxy.up()
    else:
        search.arrived()
    if when == "middle":
        fail()
    search.trials(2, 3)
    search.end()
    if when == "middle":
        time.sleep(1)
        proxy.up()
    if when == "end":
        fail()
    took = search.close()
    assert when != "end" or took < 6
    proxy.up()
    search.replay()
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)
    assert capsys.readouterr().err.count("cannot be reached") <= 1


def test_a_server_that_is_killed_and_comes_back_has_everything(search, proxy, server, healthy, capsys):
    search.begin()
    search.trials(0)
    search.arrived()
    search.trials(1)
    server.send(signal.SIGKILL)
    search.trials(2, 3)
    search.end()
    assert search.close() < 6
    assert capsys.readouterr().err.count("cannot be reached") == 1
    away = _command(search.run_dir)
    assert (away.returncode, away.stdout, len(away.stderr.splitlines())) == (1, "", 1), away.stderr
    assert "replay again" in away.stderr
    server.start()
    back = _command(search.run_dir)
    assert (back.returncode, back.stderr) == (0, "")
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)
    assert _command(search.run_dir).stdout == "0 events carried\n"


def test_a_frozen_server_holds_nobody_up_and_has_everything_once_it_goes_on(
    search, proxy, server, healthy, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    search.begin()
    search.arrived()
    server.send(signal.SIGSTOP)
    search.trials(0, 1)
    time.sleep(6)  # the first trial's run was asked for, its answer given up, and asked for again
    server.send(signal.SIGCONT)
    search.trials(2)
    search.arrived()
    server.send(signal.SIGSTOP)
    search.trials(3)
    search.end()
    assert search.close() < 6
    server.send(signal.SIGCONT)
    search.replay()
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)


def test_a_run_whose_creation_was_not_answered_is_not_made_again(search, proxy, server, healthy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    created = []

    def answers_late(path):
        if "runs/create" in path:
            created.append(path)
            if len(created) < 3:
                time.sleep(2)

    proxy.after = answers_late
    search.begin()
    search.trials(0, 1)
    search.end()
    search.arrived()
    assert len(created) == 3
    search.close()
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)


def test_of_two_runs_that_a_late_creation_left_one_stays(search, proxy, server, healthy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    created = []

    def late(path):
        if "runs/create" in path:
            created.append(path)
            if len(created) == 3:  # the second trial's: it is done, but only after it was asked for again
                time.sleep(4)

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


def test_an_event_that_is_refused_for_good_holds_up_none(search, proxy, server, healthy, capsys):
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
    found = stored(server.uri, search.id)
    assert [step for step, _, _ in found[f"{search.id}/t0"]["metrics"]["eval_loss"]] == [0, 1, 2, 3, 9]
    assert found[f"{search.id}/parent"]["artifacts"] == {("gone", 5)}
    assert found[f"{search.id}/parent"]["status"] == found[f"{search.id}/t1"]["status"] == "FINISHED"


def test_a_run_whose_start_was_refused_gets_it_by_a_replay(search, proxy, server, healthy):
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
    found, expected = stored(server.uri, search.id), healthy(search.run_dir, search.id)
    for runs in (found, expected):
        runs[f"{search.id}/t0"].pop("times")  # MLflow lets nobody change when a run began
    assert found == expected


def test_everything_once_more_changes_nothing(search, proxy, server):
    search.begin()
    search.trials(0, 1)
    search.end()
    search.arrived()
    search.close()
    before = stored(server.uri, search.id)
    (search.run_dir / "mlflow-state.json").unlink()
    assert search.replay() == (17, 0)
    assert stored(server.uri, search.id) == before


def test_a_server_that_is_away_costs_no_computing(search, proxy):
    proxy.down()
    search.begin()
    time.sleep(1.5)
    before = time.process_time()
    time.sleep(3)
    assert time.process_time() - before < 0.3
    search.close()


def test_one_replay_at_a_time_and_none_while_the_search_carries(search, proxy):
    search.begin()
    search.arrived()
    search.close()
    search.sink.thread.join(30)
    with lock(search.run_dir):
        second = _command(search.run_dir)
    assert (second.returncode, second.stdout, len(second.stderr.splitlines())) == (2, "", 1)
    assert "another replay" in second.stderr


@pytest.fixture
def tune(tiny_gpt2, tiny_text, tmp_path):
    """A function that runs a whole search of two trials with an MLflow server."""

    def run(uri):
        return subprocess.run(
            [sys.executable, "tune.py", "--model", str(tiny_gpt2), "--dataset", str(tiny_text), "--num-samples", "2",
             "--train-examples", "16", "--validation-examples", "8", "--test-examples", "8", "--max-length", "32",
             "--learning-rate", "0.01", "--confirm-seeds", "0", "--strategies", "baseline", "--strategies",
             "linear_decay", "--max-concurrent-trials", "1", "--mlflow-uri", uri, "--runs-dir", str(tmp_path),
             "--name", "whole"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return run


def test_a_whole_search_with_a_frozen_server_ends_as_it_would_have(tune, server, tmp_path, healthy):
    server.send(signal.SIGSTOP)
    done = tune(server.uri)
    ended = time.time()
    server.send(signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert "once it is back: python -m tuning.tracking replay" in done.stderr
    run_dir = tmp_path / "whole"
    assert ended - (run_dir / "report.html").stat().st_mtime < 15  # not the half minute that a request may take
    assert _command(run_dir).returncode == 0
    search = json.loads((run_dir / "facts.json").read_text())["search_id"]
    found = stored(server.uri, search)
    assert found == healthy(run_dir, search)
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert len(found) == 3
