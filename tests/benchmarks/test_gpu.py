"""The benchmark for a lent GPU, at a small size on a CPU: every row comes, and what an expert writes trains as ours."""

import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from analysis.results.trial_config import TrialConfig
from benchmarks import gpu, peers, workloads
from benchmarks.gpu import Case


@pytest.fixture
def case():
    return Case("gpt2", lambda: gpu.geometry("gpt2", small=True), 16, 2, (1, 2))


@pytest.mark.search
def test_every_row_of_the_tables_comes(case, monkeypatch):
    monkeypatch.setattr(gpu, "cases", lambda small, smollm2: [case, gpu.Case("llama", lambda: "none", 16, 2, (1,))])
    monkeypatch.setattr(gpu.Clock, "time", lambda self, work: work() is None or 0.001)
    result = CliRunner().invoke(gpu.main, ["--small", "--cpu"], catch_exceptions=False)
    lines = result.output.splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| gpt2: ")]
    assert names == [f"gpt2: {name}" for name in ("P1", "P1+", "ours", "bare base", "ours", "bare base")]
    assert sum("evaluation / bare forward" in line for line in lines) == 2
    assert any(line.startswith("| llama: failed, ValueError: --model none") for line in lines)
    assert lines[-1].startswith("| 32 | ")
    assert not {"ray", "ray_tune"} & {*vars(gpu), *vars(peers), *vars(workloads)}, "where it is to run there is no Ray"


@pytest.mark.search
def test_an_expert_trains_what_ours_trains(case):
    workload = gpu.workload_of(case, case.make(), "cpu")
    pack, (slot,) = gpu.packed(workload, 1)
    trial = peers.ExpertPlus(workload, TrialConfig("baseline", learning_rate=5e-4, scaling="constant", seed=0))
    trial.order = slot.learner.order
    trial.optimizer.param_groups[0]["lr"] = slot.learner.learning_rate  # it has no schedule
    assert trial.train(1) == sum(pack.splits.train[index].learned_tokens for index in slot.examples)
    expected = [parameter.detach().clone() for parameter in trial.parameters]
    trial.close()
    pack.step([slot])
    for ours, theirs in zip(slot.learner.parameters, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_whole_command_is_twenty_eight_trials_of_a_hundred_steps(monkeypatch):
    source = gpu.DataSource("e2e.jsonl", prompt_column="meaning", completion_column="text")
    monkeypatch.setattr(workloads, "e2e", lambda examples: source)
    command = gpu.search_command("model", Path("runs"), small=False)
    assert (command[0], Path(command[1]).name) == (sys.executable, "tune.py")
    assert {"--num-samples=28", "--train-examples=800", "--batch-size=8", "--confirm-seeds=3"} <= {*command}
