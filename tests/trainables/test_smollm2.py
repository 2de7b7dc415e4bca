"""A real model of 135 M parameters, from what can be adapted to what is handed out."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from analysis.results.rows import read_rows
from tests import smollm2
from trainables.data.splits import DataSource, load_splits
from trainables.engine.soundness import sound_coverage
from trainables.models.base_model import load

ROOT = Path(__file__).parents[2]
COVERAGE_SECONDS = 15.0
pytestmark = [pytest.mark.smollm2, pytest.mark.process, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def model():
    """Folder of the model."""
    return str(smollm2.fetched())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A file of prompts and completions."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    foods, towns = ("Italian", "Indian", "French", "Thai"), ("riverside", "city centre", "old harbour")
    rows = [
        {"prompt": f"name: Inn {number}, food: {food}, area: {town}\nIn words:",
         "completion": f" Inn {number} serves {food} food; it is in the {town}."}
        for number in range(5) for food in foods for town in towns
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(model, pairs, tmp_path_factory):
    """(what a search printed, its folder)"""
    runs = tmp_path_factory.mktemp("runs")
    command = [
        sys.executable, "tune.py", "--model", model, "--dataset", str(pairs), "--prompt-column", "prompt",
        "--completion-column", "completion", "--train-examples", "24", "--validation-examples", "8",
        "--test-examples", "8", "--max-length", "64", "--strategies", "baseline", "--strategies", "linear_decay",
        "--num-samples", "3", "--confirm-seeds", "0", "--reports", "2", "--runs-dir", str(runs), "--name", "real",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, runs / "real"


def test_all_of_it_can_be_adapted_and_that_is_soon_known(model):
    base, rows = load(model), load_splits(DataSource("pydoc"), model).train
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processor time, which other work does not lengthen: on two cores half of it
    try:
        began = time.process_time()
        coverage = sound_coverage(base, rows)
        seconds = time.process_time() - began
    finally:
        torch.set_num_threads(threads)
    assert str(coverage) == "adapted: 210 of 210 matrices, 100% of their parameters"
    assert (coverage.skips, coverage.joins, coverage.silent) == (True, True, 0)
    assert seconds / 2 < COVERAGE_SECONDS * float(os.environ.get("TIME_CLASS_SLACK", 1))


def test_its_best_adapter_is_what_was_measured_in_both_forms(run):
    printed, folder = run
    facts = json.loads((folder / "facts.json").read_text())
    best = min((row.final_eval_loss, row.trial_id) for row in read_rows(folder / "rows.jsonl") if row.final_eval_loss)
    assert facts["handed_out"] == pytest.approx(
        dict.fromkeys(["best_adapter", "best_adapter_uniform"], best[0]), abs=1e-4
    )
    assert "best_adapter_uniform" in printed
    for name in facts["handed_out"]:
        assert (folder / name / "chat_template.jinja").is_file()
        config = json.loads((folder / name / "adapter_config.json").read_text())
        assert len(json.dumps(config["target_modules"])) < 2000
    assert len(facts["shrink"]) == 5


@pytest.mark.parametrize("form", ["uniform", "merged"])
def test_so_is_each_export(form, run, tmp_path):
    command = [sys.executable, "-m", "trainables.export", run[1], "--form", form, "--output", tmp_path / form]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "as the search did" in done.stdout
