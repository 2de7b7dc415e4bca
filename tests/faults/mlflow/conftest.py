"""A real MLflow server, a proxy before it that fails as it is told, and a search that is only its events."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from tuning.tracking.events import Tracking, open_sink, replay
from tuning.tracking.mlflow_client import EXPERIMENT, PARENT, PARENT_TAG, TRIAL_TAG, MlflowCarrier, now_ms
from tuning.tracking.outbox import Outbox, Target

ROOT = Path(__file__).parents[3]
REPORTS = 4


class Server:
    """A real MLflow server, with SQLite behind it, that can be killed, frozen and started again."""

    def __init__(self, folder, launch, port):
        self.folder, self.launch, self.port = folder, launch, port
        self.uri = f"http://127.0.0.1:{port}"

    def start(self):
        store = f"sqlite:///{self.folder}/server.db"
        self.process = self.launch(self.port, store, "--artifacts-destination", f"{self.folder}/files")

    def send(self, number):
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


class Proxy:
    """Stands before the server and fails as it is told; ``down`` closes the port."""

    def __init__(self, server, port):
        self.port, self.http = port, None
        self.uri, proxy = f"http://127.0.0.1:{self.port}", self
        self.fault = self.after = None

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status = proxy.fault(self.path) if proxy.fault else None
                if status:
                    code, content = status, b"the proxy says no"
                else:
                    onward = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                    onward.request(self.command, self.path, body, dict(self.headers))
                    answer = onward.getresponse()
                    code, content = answer.status, answer.read()
                    onward.close()
                if proxy.after:
                    proxy.after(self.path)
                self.send_response(code)
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


@pytest.fixture(scope="module")
def server(tmp_path_factory, mlflow_server, free_port):
    made = Server(tmp_path_factory.mktemp("server"), mlflow_server, free_port())
    made.start()
    return made


@pytest.fixture(scope="module")
def gate(server, free_port):
    made = Proxy(server, free_port())
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
    """What an MLflow that never failed has of an outbox's events: a function of the run folder and the search."""
    folder = tmp_path_factory.mktemp("healthy")

    def carried(run_dir, search):
        target = Target(f"sqlite:///{folder}/mlflow.db", (folder / "files").as_uri(), search)
        carrier = MlflowCarrier(target)
        for line in (run_dir / "mlflow-outbox.jsonl").read_text().splitlines():
            event = json.loads(line)
            del event["checksum"]
            if "path" in event:
                event["path"] = str(run_dir / event["path"])
            if event["kind"] != "target":
                carrier.apply(event)
        return _stored(target.uri, search)

    return carried


def _stored(uri, search):
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
            self.tracking.started(TrialConfig("baseline", f"t{number}", learning_rate=0.1, seed=number))
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
        while self.sink.outbox.remaining() and time.monotonic() < until:
            time.sleep(0.05)
        assert self.sink.outbox.remaining() == 0

    def replay(self):
        self.sink.thread.join(90)
        return replay(self.run_dir)


@pytest.fixture
def search(tmp_path, proxy):
    return Search(tmp_path, proxy.uri)


@pytest.fixture
def command():
    """A function that replays a folder's events in a process of its own, to where they were for."""

    def run(run_dir):
        return subprocess.run(
            [sys.executable, "-m", "tuning.tracking", "replay", str(run_dir), "--to", Outbox(run_dir).target.uri],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


@pytest.fixture
def stored():
    """A function that returns all that MLflow has of a search, ids aside."""
    return _stored
