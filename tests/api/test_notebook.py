"""A search in a notebook's kernel: its loop runs already, and its output goes to whoever asked for the cell."""

import importlib.util
import os
import queue
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CELL = """
import pytest
from tests.fakes import mlflow, ray_tune
from tuning import SearchPlan, search
patch = pytest.MonkeyPatch()
ray_tune.install(patch), ray_tune.draw_nothing(patch), mlflow.install(patch)
plan = SearchPlan(model={model!r}, dataset={dataset!r}, train_examples=16, validation_examples=8, test_examples=8,
                  max_length=32, num_samples=2, strategies=("baseline",), confirm_seeds=0, runs_dir={runs!r})
"""


@pytest.fixture
def kernel(lacking):
    """A function that runs a cell in a kernel and returns what it printed; it raises what the cell raises."""
    if importlib.util.find_spec("ipykernel") is None:
        lacking("ipykernel is not installed")
    from jupyter_client.manager import start_new_kernel

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    manager, client = start_new_kernel(kernel_name="python3", env=environment)

    def run(code, seconds=200):
        printed, deadline = [], time.monotonic() + seconds
        asked = client.execute(code)
        while time.monotonic() < deadline:
            try:
                message = client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed.append(content["text"])
            if kind == "execute_result":
                printed.append(content["data"]["text/plain"])
            if kind == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            if kind == "status" and content["execution_state"] == "idle":
                return "".join(printed)
        raise TimeoutError(code)

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.process
@pytest.mark.thorough
def test_in_a_kernel_a_cell_searches_prints_nothing_and_another_reads_the_trials(
    kernel, tiny_gpt2, tiny_text, tmp_path
):
    kernel(CELL.format(model=str(tiny_gpt2), dataset=str(tiny_text), runs=str(tmp_path / "runs")))
    assert kernel("result = search(plan)") == ""
    assert kernel("len(result.trials), result.status") == "(2, 0)"
    assert kernel("len(search(plan).trials)") == "2", "the kernel lives, and searches again"
