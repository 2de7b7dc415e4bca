"""Small real models, data and searches that tests share."""

import contextlib
import gc
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.time_classes", "tests.shares", "tests.whole_searches"]

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they give
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "ONEDNN_MAX_CPU_ISA", "AVX512_CORE"
)  # no CPU computes faster in bfloat16: searches are in float32


hypothesis.settings.register_profile("here", deadline=None)  # time classes judge, and not by a clock others lengthen
hypothesis.settings.load_profile("here")

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]


def pytest_collection_finish():
    """Have Python's garbage collector look no more at what libraries and tests consist of."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def last_words():
    """Have a test begin as a process does, of which no search has begun, whatever ran in this one before."""
    from tuning.lifecycle import process

    process.leave_with("Stopped before any trial began")


@pytest.fixture(scope="session")
def lacking():
    """A function that says what this machine lacks for a test: a developer's is skipped, CI's fails."""

    def lack(what):
        (pytest.fail if os.environ.get("CI_RUNS_ALL_TESTS") else pytest.skip)(what)

    return lack


@pytest.fixture(scope="session")
def wait_for():
    """A function that waits until something is so, and raises ``TimeoutError`` if it never is."""

    def wait(condition, seconds=240, what="what was waited for did not happen"):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} within {seconds} s")
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "install Chromium (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    from trainables.pretrain import train_tokenizer

    return train_tokenizer(["the quick brown fox jumps over the lazy dog " * 20], 300)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random GPT-2 of two blocks, saved like any model."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    config = GPT2Config(
        vocab_size=300, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory) -> Path:
    """Sixty different lines."""
    path = tmp_path_factory.mktemp("data") / "lines.txt"
    path.write_text("\n".join(f"the {index} quick foxes jump over {index + 1} lazy dogs" for index in range(60)))
    return path


@pytest.fixture
def refused(capsys):
    """Run the command in this process; it must end with status 2 and one line on standard error, which is returned."""
    from tuning.cli import main

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert "Report" not in captured.out, "what was asked and how large it is may have been shown, and no more"
        assert len(captured.err.splitlines()) == 1, captured.err
        return captured.err

    return run


@pytest.fixture(scope="session")
def reported():
    """A function that returns trial id -> the steps that it reported as often as it did, from a search's record.

    ``None`` stands where a trial was started again by Ray. A row's history would not show what was trained twice.
    """

    def read(run_dir):
        steps, path = {}, run_dir / "record.jsonl"
        for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
            event = json.loads(line)
            if event["event"] in ("reported", "restarted"):
                steps.setdefault(event["trial_id"], []).append(event.get("report", {}).get("step"))
        return steps

    return read


@pytest.fixture(scope="session")
def around_restarts(reported):
    """A function that returns the steps that trials reported last before and first after Ray started them again."""

    def read(run_dir):
        lives = [
            [[*steps] for restart, steps in itertools.groupby(history, lambda step: step is None) if not restart]
            for history in reported(run_dir).values()
        ]
        return [(before[-1], after[0]) for life in lives for before, after in itertools.pairwise(life)]

    return read


@pytest.fixture(scope="session")
def small(tiny_gpt2, tiny_text):
    """Flags that make a trial take a second."""
    return [
        "--model", str(tiny_gpt2), "--dataset", str(tiny_text), "--train-examples", "16", "--validation-examples", "8",
        "--test-examples", "20", "--max-length", "32", "--learning-rate", "0.01", "--confirm-seeds", "0",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def shared_ray():
    """A Ray that all searches of this process share; a search that finds one does not start its own."""
    import ray

    from tuning.cluster import ray_compat
    from tuning.lifecycle.process import quieten_ray

    quieten_ray()
    with ray_compat.on_loopback():
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            namespace="shared",
        )  # fmt: skip
    yield
    ray.shutdown()
    with warnings.catch_warnings():  # on a busy machine Ray does not wait until all that it has started has ended
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def simulated(monkeypatch):
    """Have searches of this process train nothing, use no Ray and draw nothing; return what their MLflow stores."""
    from tests.fakes import mlflow, ray_tune

    ray_tune.install(monkeypatch)
    ray_tune.draw_nothing(monkeypatch)
    return mlflow.install(monkeypatch)


@pytest.fixture(scope="session")
def drawn():
    """The function that draws a report's pictures."""
    from analysis.report import pictures

    return pictures.drawn


@pytest.fixture
def drawing(drawn, simulated, monkeypatch):
    """Have the pictures of simulated searches' reports drawn after all: a second or two each."""
    monkeypatch.setattr("analysis.report.pictures.drawn", drawn)


@pytest.fixture
def fake_hosts(shared_ray, monkeypatch):
    """Have searches of this process run on a real Ray whose trials train nothing, and draw nothing.

    Return what their MLflow stores.
    """
    from tests.fakes import mlflow, ray_tune
    from tests.fakes.hosts import FakeHosts
    from tuning.cluster import hosting

    monkeypatch.setattr(hosting, "Hosts", FakeHosts)
    ray_tune.draw_nothing(monkeypatch)
    return mlflow.install(monkeypatch)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory):
    """A database of MLflow's in which nothing is; making one takes as long as ten small searches."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@pytest.fixture(scope="session")
def free_port():
    """A function that finds a port nobody listens at."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="module")
def mlflow_server():
    """A function that starts a real MLflow server at a port, on a store, and returns its process once it answers."""
    started = []

    def start(port, store, *flags):
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", store, *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        started.append(process)
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    return process
            except OSError:
                time.sleep(0.5)
        raise TimeoutError("the MLflow server does not answer")

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # asked politely it waits for open browsers
        process.wait()
