"""A pytest plugin: searches as a user starts them, in processes of their own, each made once for all that read it."""

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

ROOT = Path(__file__).parents[1]


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
def six(four):
    """Flags that name six strategies, and how a search of them can be repeated."""
    return [*four, "--strategies", "eva", "--strategies", "adalora", "--num-samples", "12", "--confirm-seeds", "2",
            "--max-concurrent-trials", "1"]  # fmt: skip


@pytest.fixture(scope="session")
def planted():
    """Name of a variable of the environment -> a secret that stands in it while a search runs."""
    names = (
        "HF_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD",
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY",
    )  # fmt: skip
    return {name: f"planted-{name.lower().replace('_', '')}-5f0e" for name in names} | {
        "HTTPS_PROXY": "planted-proxy-5f0e"
    }


class Finished(NamedTuple):
    """A search of six strategies with confirmation runs, as a user starts it. Tests read it, and change nothing.

    Attributes:
        done: Its process.
        folder: Its run folder.
        rays: The folder that its Ray had for its own files; nothing else is in it.
        listeners: (name of a process, address) of what its processes listened at for connections.
        began: When its process began, in seconds since the epoch.
    """

    done: subprocess.CompletedProcess
    folder: Path
    rays: Path
    listeners: set[tuple[str, str]]
    began: float


@pytest.fixture(scope="session")
def finished(small, six, planted, tmp_path_factory):
    """A ``Finished``, made once."""
    runs = tmp_path_factory.mktemp("finished")
    variables = planted | {"HTTPS_PROXY": f"http://me:{planted['HTTPS_PROXY']}@127.0.0.1:9"}
    command = [sys.executable, "tune.py", *small, *six, "--runs-dir", str(runs), "--name", "first"]
    # Ray's sockets lie in it, and their paths must be short; its agents may still write there when all is over
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as rays, ThreadPoolExecutor() as pool:
        search = psutil.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **variables, "RAY_TMPDIR": rays},
        )  # fmt: skip
        printed, listeners, began = pool.submit(search.communicate), set(), search.create_time()
        while not printed.done():
            listeners |= _listeners(search)
            concurrent.futures.wait([printed], 15)  # looking takes long
        done = subprocess.CompletedProcess(command, search.returncode, *printed.result())
        assert done.returncode == 0, done.stderr
        yield Finished(done, runs / "first", Path(rays), listeners, began)


def _listeners(process):
    listeners = set()
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            name = "dashboard" if "dashboard/dashboard.py" in " ".join(each.cmdline()) else each.name()
            sockets = each.net_connections("inet")
            listeners |= {(name, socket.laddr.ip) for socket in sockets if socket.status == psutil.CONN_LISTEN}
    return listeners


@pytest.fixture(scope="session")
def front(tune, runs):
    """A search of two objectives with confirmation runs: (completed process, run folder)."""
    done = tune(
        "--objective", "loss,params", "--budget-rank", 8, "--num-samples", 12, "--strategies", "baseline",
        "--strategies", "linear_decay", "--confirm-seeds", 1, "--runs-dir", runs, "--name", "front",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, runs / "front"
