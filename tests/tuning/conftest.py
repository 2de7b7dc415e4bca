"""Real searches on a tiny model, shared by the tests that look at what they leave."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small(tiny_gpt2, tiny_text):
    """Flags that make a trial take a second."""
    return [
        "--model", str(tiny_gpt2), "--dataset", str(tiny_text), "--train-examples", "16", "--validation-examples", "8",
        "--test-examples", "8", "--max-length", "32", "--learning-rate", "0.01", "--confirm-seeds", "0",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def tune(small):
    """Run ``python tune.py`` as a user does."""

    def run(*flags, **environment):
        return subprocess.run(
            [sys.executable, "tune.py", *small, *map(str, flags)],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment},
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def four():
    """Flags that name four strategies."""
    names = ("baseline", "linear_decay", "attention_heavy", "empirical")
    return [word for name in names for word in ("--strategies", name)]


@pytest.fixture(scope="session")
def finished(tune, runs, four):
    """A search of eight trials, one at a time: (completed process, run folder)."""
    done = tune("--num-samples", 8, "--max-concurrent-trials", 1, "--runs-dir", runs, "--name", "first", *four)
    assert done.returncode == 0, done.stderr
    return done, runs / "first"


@pytest.fixture(scope="session")
def front(tune, runs):
    """A search of two objectives with confirmation runs: (completed process, run folder)."""
    done = tune(
        "--objective", "loss,params", "--budget-rank", 8, "--num-samples", 12, "--strategies", "baseline",
        "--strategies", "linear_decay", "--confirm-seeds", 1, "--runs-dir", runs, "--name", "front",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, runs / "front"


@pytest.fixture(scope="session")
def free_port():
    """A function that finds a port nobody listens at."""

    def find():
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            return found.getsockname()[1]

    return find


@pytest.fixture(scope="module")
def mlflow_server():
    """A function that starts a real MLflow server at a port, on a store."""
    started = []

    def start(port, store, *flags):
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", store, *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError("the MLflow server does not answer")

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)  # asked politely it waits for open browsers
        process.wait()
