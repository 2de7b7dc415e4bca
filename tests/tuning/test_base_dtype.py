"""In which dtype the base lies, and who is told."""

import types

import pytest

from tests.fakes.observers import Lines
from trainables.models import block_speed
from trainables.models.device import Cuda, Device
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import base_dtype
from tuning.state import continuation
from tuning.state.record import Record


@pytest.fixture
def lines():
    """An observer."""
    return Lines()


@pytest.fixture
def decided(monkeypatch, lines):
    """A function that decides a plan's dtype on a machine whose CPU and GPU have bfloat16, or not, and so much gain."""

    def decide(plan, has=True, gain=1.0):
        for kind in (Device, Cuda):
            monkeypatch.setattr(kind, "has_bfloat16", has)
        monkeypatch.setattr(block_speed, "bfloat16_gain", lambda sites, tokens: gain)
        shape = types.SimpleNamespace(sites=())
        checked = types.SimpleNamespace(workload=plan.workload(None), shape=shape)
        return base_dtype.decided(plan, checked, lines)

    return decide


@pytest.mark.parametrize(("plan", "machine", "dtype"), [
    ({"gpus_per_trial": 1}, {}, "bfloat16"),
    ({"gpus_per_trial": 1}, {"has": False}, "float32"),
    ({"gpus_per_trial": 1}, {"has": None}, "bfloat16"),
    ({"gpus_per_trial": "mps"}, {"gain": 2.0}, "float32"),
    ({"gpus_per_trial": 0}, {"gain": 1.31}, "bfloat16"),
    ({"gpus_per_trial": 0}, {"gain": 1.29}, "float32"),
    ({"gpus_per_trial": 0}, {"has": False, "gain": 2.0}, "float32"),
    ({"gpus_per_trial": 0, "model": "bundled"}, {"gain": 2.0}, "float32"),
    ({"gpus_per_trial": 1, "model": "bundled"}, {}, "float32"),
])  # fmt: skip
def test_bfloat16_is_for_gpus_and_for_cpus_on_which_it_is_faster(decided, lines, plan, machine, dtype):
    plan = decided(SearchPlan(**{"model": "some/model", **plan}), **machine)
    assert plan.base_dtype == dtype
    assert plan.precision.dtype == plan.workload(None).precision.dtype == dtype
    assert any("--base-dtype auto: bfloat16" in line for line in lines.noted_lines) == (dtype == "bfloat16")


def test_a_search_keeps_its_dtype_and_a_machine_that_would_choose_another_is_told(decided, lines, tmp_path):
    plan = SearchPlan(model="some/model", base_dtype="float32", gpus_per_trial=1, runs_dir=str(tmp_path), name="it")
    assert decided(plan) == plan
    assert lines.noted_lines == [], "it is new, and was asked for"
    (tmp_path / "it").mkdir()
    assert decided(plan) == plan
    assert lines.noted_lines[0].startswith("--base-dtype float32, as this search began; here auto would be bfloat16")


def test_a_search_that_does_not_say_had_float32(tmp_path):
    saved = SearchPlan(name="it", runs_dir=str(tmp_path)).model_dump(mode="json")
    del saved["base_dtype"], saved["quantize"]
    (tmp_path / "it").mkdir()
    record = Record(tmp_path / "it")
    record.planned(plan=saved, search_id="", base_sha256="", command="", versions={}, changes=[])
    assert continuation.saved_plan(record).base_dtype == "float32"
