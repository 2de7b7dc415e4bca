"""What a step costs in operators, which a GPU's queue is filled with, and in reads, for which it is waited."""

import json

import torch
from click.testing import CliRunner

from benchmarks import operations
from benchmarks.operations import counted_in


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
