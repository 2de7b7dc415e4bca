"""A real Ray cluster of two nodes on this machine, and a real MLflow server on a real PostgreSQL."""

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def answers(url, **headers):
    """Return the status of an HTTP answer; None if there is none yet."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


class Processes:
    """Starts processes in sessions of their own, and ends them with all that they started."""

    def __init__(self, logs):
        self.logs, self.started = logs, []

    def start(self, name, command, **options):
        with (self.logs / f"{name}.log").open("w") as log:
            process = psutil.Popen(command, stdout=log, stderr=log, start_new_session=True, **options)
        self.started.append(process)
        return process

    def end(self):
        family = []
        for process in self.started:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                family += [process, *process.children(recursive=True)]
                os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=3)
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(alive, timeout=10)
        self.started.clear()


class Cluster:
    """``ray start`` for each node, with one token.

    Args:
        processes: Starts them.
        folder: Short, since sockets lie in it.
        wait_for: Waits until something is so.
        free_port: Finds a port nobody listens at.
    """

    # Ray replaces 127.0.0.1 by the machine's address on a network, so the nodes take other loopback addresses
    HEAD, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
    LONG = (
        "--num-samples", "6", "--confirm-seeds", "0", "--epochs", "200", "--max-concurrent-trials", "6",
    )  # fmt: skip

    def __init__(self, processes, folder, wait_for, free_port):
        self.processes, self.folder, self.wait_for, self.free_port = processes, folder, wait_for, free_port
        self.port, self.dashboard = free_port(), f"http://127.0.0.1:{(dashboard := free_port())}"
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_JOB_STOP_WAIT_TIME_S": "60",
        }  # fmt: skip
        self.address = f"{self.HEAD}:{self.port}"
        self._begin(
            self.HEAD, (), "--head", "--port", self.port, "--dashboard-port", dashboard,
            "--ray-client-server-port", free_port(),
        )  # fmt: skip

    def join(self, address, *flags, before=()):
        """Add a node; ``before`` comes in front of its command."""
        return self._begin(address, before, "--address", self.address, *flags)

    def _begin(self, address, before, *flags):
        """Start a node, again if it ends: a port may be taken meanwhile, and Ray gives its processes 30 s to answer."""
        for _ in range(3):
            node = self.start(address, *flags, before=before)
            self.wait_for(
                lambda node=node: address in self.alive() or node.poll() is not None, 240, f"{address} did not join"
            )
            if node.poll() is None:
                return node
        raise RuntimeError(f"{address} ended: {(self.processes.logs / f'{address}.log').read_text()[-2000:]}")

    def start(self, address, *flags, before=()):
        command = [
            *before, RAY, "start", "--block", "--node-ip-address", address,
            "--num-cpus", "2", "--num-gpus", "0", "--min-worker-port", "0", "--max-worker-port", "0",
            "--dashboard-agent-listen-port", self.free_port(), "--disable-usage-stats",
            "--temp-dir", self.folder / address.rpartition(".")[2], *flags,
        ]  # fmt: skip
        return self.processes.start(address, [*map(str, command)], env=self.environment, cwd=self.folder)

    def alive(self):
        """Return the addresses of the nodes that are there."""
        url, token = f"{self.dashboard}/api/v0/nodes", (self.folder / "token").read_text()
        with contextlib.suppress(OSError):
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
            return [node["node_ip"] for node in nodes if node["state"] == "ALIVE"]
        return []

    def workers(self):
        """Return the nodes' processes that work for searches; Ray puts its name into their titles."""
        workers = []
        for process in self.processes.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                workers += [child for child in process.children(recursive=True) if child.name().startswith("ray::")]
        return workers

    def begin(self, plan, runs, name, *flags):
        """Start a search of long trials, and return it and where its trials' results are."""
        command = [
            sys.executable, "tune.py", "--ray-address", self.address, "--runs-dir", runs, *plan, *self.LONG, *flags,
        ]  # fmt: skip
        process = self.processes.start(name, [*map(str, command)], cwd=ROOT, env=self.environment)
        return process, runs / "search" / "ray"

    @staticmethod
    def nodes_of(results, reports=1):
        """Return the nodes on which a trial has reported that often."""
        histories = (path.read_text().split("\n")[:-1] for path in results.glob("*/*/result.json"))
        return {json.loads(lines[0])["node_ip"] for lines in histories if len(lines) >= reports}

    def submit(self, *command, flags=()):
        """Submit a job, and wait for its end unless the flags say otherwise."""
        return self.job("submit", "--working-dir", ROOT, *flags, "--", *command)

    def job(self, verb, *arguments):
        """Run ``ray job``."""
        return self.run(RAY, "job", verb, "--address", self.dashboard, *arguments)

    def run(self, *command, **options):
        """Run a command with the cluster's token."""
        options = {"cwd": ROOT, "env": self.environment, "timeout": 400, **options}
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="package")
def processes(tmp_path_factory):
    started = Processes(tmp_path_factory.mktemp("logs"))
    yield started
    started.end()


@pytest.fixture(scope="package")
def plan(tiny_gpt2, tiny_text):
    """Two trials whose configurations do not depend on each other's results, and their confirmation."""
    names = ("baseline", "linear_decay")
    return [
        "--model", str(tiny_gpt2), "--dataset", str(tiny_text), "--train-examples", "16", "--validation-examples", "8",
        "--test-examples", "20", "--max-length", "32", "--learning-rate", "0.01", "--scheduler", "fifo",
        "--num-samples", "2", "--confirm-seeds", "1", "--max-concurrent-trials", "4", "--name", "search",
        *[word for name in names for word in ("--strategies", name)],
    ]  # fmt: skip


@pytest.fixture(scope="package")
def cluster(processes, wait_for, free_port):
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        joined = Cluster(processes, Path(folder), wait_for, free_port)
        joined.join(joined.SECOND)
        yield joined
        processes.end()


def _postgres(name, lacking):
    paths = [shutil.which(name), *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True)]
    program = next(filter(None, paths), None)
    if program is None:
        lacking(f"{name} is not here; Debian's package postgresql has it")
    return program


def _without_root():
    """Return options of a process that is not root's, for PostgreSQL refuses it."""
    if os.getuid():
        return {}
    users = {entry.pw_name for entry in pwd.getpwall()}
    return {"user": "postgres" if "postgres" in users else "nobody"}


@pytest.fixture(scope="package")
def postgres(processes, lacking, wait_for, free_port):
    """The URI of an empty database, password included."""
    import psycopg2

    options, password, port = _without_root(), secrets.token_hex(16), free_port()
    server, initdb = _postgres("postgres", lacking), _postgres("initdb", lacking)
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        data, given = Path(folder) / "data", Path(folder) / "password"
        given.write_text(password)
        if options:
            shutil.chown(folder, options["user"]), shutil.chown(given, options["user"])
        command = [initdb, "-D", data, "-U", "mlflow", "-A", "scram-sha-256", "--pwfile", given, "--locale", "C", "-N"]
        subprocess.run([*map(str, command)], check=True, capture_output=True, cwd=folder, timeout=120, **options)
        flags = ["-D", data, "-h", "127.0.0.1", "-p", port, "-k", ""]
        processes.start("postgres", [server, *map(str, flags)], cwd=folder, **options)
        uri = f"mlflow:{password}@127.0.0.1:{port}/postgres"

        def ready():
            try:
                psycopg2.connect(f"postgresql://{uri}").close()
            except psycopg2.OperationalError:
                return False
            return True

        wait_for(ready, 60, "no PostgreSQL")
        yield f"postgresql+psycopg2://{uri}"
        processes.end()


@pytest.fixture(scope="package")
def mlflow_address(processes, postgres, tmp_path_factory, free_port):
    """The address of an MLflow server that has been started, and is slow to answer."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--artifacts-destination", str(tmp_path_factory.mktemp("artifacts")),
    ]  # fmt: skip
    # not as a flag: every user of the machine sees those
    processes.start(
        "mlflow",
        command,
        env={
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": postgres,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
    )
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="package")
def mlflow(mlflow_address, cluster, wait_for):
    """The address of an MLflow server that answers."""
    wait_for(lambda: answers(f"{mlflow_address}/health") == 200, 240, "no MLflow server")
    return mlflow_address
