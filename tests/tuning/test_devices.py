"""Which devices a search trains on where its author leaves that open."""

import dataclasses
import types

import pytest

from strategies import RankBudget
from strategies.empirical import Empirical
from strategies.measurement import NotMeasurable
from tests.fakes.observers import Lines
from trainables.data.splits import Splits
from trainables.models.device import Device
from tuning.cluster import connection, devices, hosting
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import measuring


@pytest.fixture
def lines():
    """An observer."""
    return Lines()


@pytest.fixture
def on(monkeypatch, lines):
    """A function that decides a plan's devices on a Ray with some GPUs, whose processes see a device."""

    def decided(plan, gpus, seen):
        monkeypatch.setattr(devices.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(gpus)})
        monkeypatch.setattr(devices, "_seen_by_a_trial", lambda: seen)
        monkeypatch.setattr(devices, "is_apple", lambda: seen == "mps")
        monkeypatch.setattr(devices, "here", lambda: Device(seen))
        return devices.decided(plan, lines)

    return decided


def test_all_gpus_are_taken_a_pack_on_each(on, lines):
    plan = on(SearchPlan(), 4, "cuda")
    assert (plan.gpus_per_trial, plan.device, plan.isolation, plan.pack_size_is_open) == (1.0, "cuda", "packed", True)
    assert lines.noted_lines == ["--gpus-per-trial auto: training on 4 GPUs"]


@pytest.mark.parametrize(("plan", "gpus", "seen", "said"), [
    (SearchPlan(), 0, "cpu", "training on CPU, for there is no GPU"),
    (SearchPlan(), 2, "cpu", "training on CPU, for PyTorch sees none of Ray's 2 GPU(s), only cpu"),
    (SearchPlan(ray_address="auto"), 0, "mps", "this Ray has no GPU now; --gpus-per-trial 1 waits for one"),
])  # fmt: skip
def test_without_a_gpu_it_is_said_that_the_cpu_trains(on, lines, plan, gpus, seen, said):
    plan = on(plan, gpus, seen)
    assert (plan.gpus_per_trial, plan.device) == (0.0, "cpu")
    assert said in lines.noted_lines[0]


def test_the_gpu_of_an_apple_chip_has_one_host(on, monkeypatch):
    plan = on(SearchPlan(pack_size=3), 0, "mps")
    assert (plan.gpus_per_trial, plan.device, plan.gpus, plan.workload(None).device) == ("mps", "mps", 0.0, "mps")
    assert hosting._per_node(plan) == 1
    assert connection.slots_of(plan, {"CPU": 8.0}) == 3
    assert SearchPlan(**plan.model_dump()) == plan


def test_what_was_given_stays(on, lines):
    for given in (0, 0.25, 1):
        assert on(SearchPlan(gpus_per_trial=given), 4, "cuda").gpus_per_trial == given
    assert lines.noted_lines == []


def test_where_coverage_fails_on_an_apple_chip_the_cpu_trains(monkeypatch, lines):
    plan = SearchPlan(gpus_per_trial="mps", name="it")
    checked = types.SimpleNamespace(workload=plan.workload(None))
    monkeypatch.setattr(measuring, "replace", lambda item, workload: types.SimpleNamespace(workload=workload))
    monkeypatch.setattr(measuring.hosting, "end", lambda hosts: None)

    def coverage(plan, checked, hosts):
        if plan.device == "mps":
            raise measuring.ray.exceptions.RayTaskError("coverage", "", ValueError("its loss is another"))
        return "of the CPU"

    monkeypatch.setattr(measuring, "_coverage", coverage)
    hosts = types.SimpleNamespace(sharing=lambda workload: workload)
    plan, checked, covered = measuring._where_it_trains(plan, checked, hosts, lines)
    assert (plan.device, checked.workload.device, covered) == ("cpu", "cpu", "of the CPU")
    assert "training on CPU, for on this machine's GPU its loss is another" in lines.noted_lines[0]


def test_strategies_whose_evidence_a_model_does_not_give_are_named_with_what_is_left(monkeypatch, tmp_path):
    def ask(*_):
        raise measuring.ray.exceptions.RayTaskError("measure", "", NotMeasurable("h.0.q: a layer is given (5, 2)"))

    monkeypatch.setattr(measuring, "ask", ask)
    plan = SearchPlan(model="m", strategies=("baseline", "empirical", "eva", "composite"), runs_dir=str(tmp_path))
    workload = dataclasses.replace(plan.workload(RankBudget(10)), base="b", splits=Splits((), (), ()))
    with pytest.raises(ValueError, match="--strategies empirical, composite: cannot be measured on --model m") as said:
        measuring._measured(plan, workload, "c", Empirical.measurement, None)
    assert str(said.value).endswith(
        "(h.0.q: a layer is given (5, 2)); leave out what needs it: --strategies baseline,eva"
    )
