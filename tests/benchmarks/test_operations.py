"""What a step costs in operators, which a GPU's queue is filled with, and in reads, for which it is waited."""

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner

from analysis.results.trial_config import TrialConfig
from benchmarks import operations, workloads
from benchmarks.operations import counted_in
from strategies import STRATEGIES
from trainables.engine.pack import Pack
from trainables.spec import TrialSpec


def test_operators_are_counted_without_views_and_inside_others():
    x = torch.ones(3, 4)
    calls, reads = counted_in(lambda: torch.nn.functional.linear(x.t().t()[:, :2], x[:, :2]))
    assert calls == {"aten::mm": 1}
    assert reads == {}


def test_all_that_is_read_from_a_device_is_counted():
    x = torch.tensor([1.0, 0.0])

    def reading():
        return x.tolist(), x.sum().item(), bool(x.any()), x[x > 0], x[torch.tensor([0])]

    assert counted_in(reading)[1] == {"Tensor.tolist": 1, "aten::_local_scalar_dense": 2, "aten::index": 1}


def test_the_file_has_every_operator_of_every_count(monkeypatch, tmp_path):
    counted = [operations.Count("bundled", "step", 4, {"aten::mm": 3, "aten::add": 2}, {"Tensor.tolist": 1})]
    monkeypatch.setattr(operations, "counts_of", lambda model: counted if model == "bundled" else [])
    result = CliRunner().invoke(operations.main, ["--json", str(tmp_path / "counts.json")])
    assert result.output == "bundled, step, 4 trials: 5 operators, 1 reads\n"
    (row,) = json.loads((tmp_path / "counts.json").read_text())
    assert (row["operators"], row["calls"]) == (5, {"aten::mm": 3, "aten::add": 2})


MOST_OVER_BASE = {"bundled": 2.5, "llama": 2.0}


@pytest.mark.search
@pytest.mark.parametrize("model", MOST_OVER_BASE)
def test_a_step_of_sixteen_trials_is_hardly_more_operators_than_of_one_and_reads_once(model):
    counted = {(count.work, count.trials): count for count in operations.counts_of(model, (1, 16), length=16)}
    base, one, sixteen = (counted["step", trials].operators for trials in (0, 1, 16))
    assert sixteen <= 1.3 * one
    assert one <= MOST_OVER_BASE[model] * base
    assert counted["evaluation", 16].operators <= 1.3 * counted["evaluation", 1].operators
    assert {count.numbers_read for count in counted.values() if count.trials} == {1}
    assert all("aten::mm" in count.calls or "aten::linear" in count.calls for count in counted.values())


@pytest.mark.search
def test_what_another_parametrization_costs_is_added_once_and_not_for_each_neighbour():
    def step_of(*strategies):
        slots = [pack.admit(workload, TrialSpec.from_config(trial)) for trial in map(trials.get, strategies)]
        calls, _ = operations.counted_in(lambda: pack.step(slots))
        return sum(calls.values())

    workload = dataclasses.replace(workloads.minimal("cpu"), epochs=10)
    pack = Pack.of(workload, 1)
    trials = {
        "adalora": TrialConfig("adalora", params=STRATEGIES["adalora"].known_good, learning_rate=0.01),
        "baseline": TrialConfig("baseline", learning_rate=0.01),
    }
    alone = step_of("adalora") - step_of("baseline")
    assert step_of("adalora", *["baseline"] * 3) - step_of(*["baseline"] * 4) == pytest.approx(alone, rel=0.1)
