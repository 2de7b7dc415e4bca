"""What is said of memory, and what is done where it is short."""

import dataclasses
import itertools
import types

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from strategies import RankBudget
from strategies.base import Site
from trainables.engine.footprint import Footprint
from trainables.models.device import CPU, CUDA, Device
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import memory, preview
from tuning.preflight.preflight import Preflight

FOOTPRINT = Footprint(base=10**9, trial=10**7, moments=10**7, row=10**9, row_recomputed=10**8)


@pytest.fixture
def planned(monkeypatch):
    """A function that plans a search's passes in a memory, in GB, of which the process itself takes half a one."""
    monkeypatch.setattr(memory, "_footprint", lambda *_: FOOTPRINT)
    monkeypatch.setattr(memory, "SHARE", 1.0)
    monkeypatch.setattr(memory, "_most_bytes", lambda *_: 10**11)

    def plan_in(gigabytes, **choices):
        plan = SearchPlan(**{"pack_size": 2, "batch_size": 8, "gpus_per_trial": 1, **choices})
        workload = plan.trained_with(plan.workload(RankBudget(10)))
        return memory.planned(
            plan, Preflight(None, workload, "", {}), gigabytes * 1e9, types.SimpleNamespace(noted=print)
        ).workload

    return plan_in


def test_what_fits_is_trained_as_it_would_be_without_a_planner(planned, capsys):
    workload = planned(30)
    assert (workload.micro_batch, workload.rows_per_pass, workload.recomputes) == (8, None, False)
    assert capsys.readouterr().out == (
        "memory: about 17,040 MB a process with 2 trials in a pack, 8 rows of each in a pass: base 1,000 MB, adapters "
        "20 MB, moments 20 MB, activations 16,000 MB; one trial 9,020 MB\n"
    )


def test_steps_are_graphs_where_they_are_wanted_and_it_is_logged_that_dropout_has_none(planned, caplog):
    with caplog.at_level("INFO", "tuning"):
        assert not planned(30, cuda_graphs="off", dropout=0.1).captures
        assert planned(30).captures
        assert "no CUDA graphs" not in caplog.text
        planned(30, dropout=0.1)
    assert "training steps are no CUDA graphs: --dropout 0.1" in caplog.text


def test_a_small_card_has_small_passes_and_a_smaller_one_computes_blocks_twice(planned, capsys):
    assert (planned(10).micro_batch, planned(10).recomputes) == (4, False)
    assert (planned(3.3).micro_batch, planned(3.3).recomputes) == (8, True)
    assert "blocks computed twice (gradient checkpointing)" in capsys.readouterr().out
    assert planned(30, gradient_checkpointing="on").recomputes
    assert (planned(3.6, gradient_checkpointing="off").micro_batch, planned(3.6).recomputes) == (1, False)


def test_where_there_is_far_more_memory_nothing_is_planned_unless_it_was_asked_for(planned, capsys):
    assert not planned(1001).recomputes
    assert capsys.readouterr().out == ""
    assert planned(1001, gradient_checkpointing="on").recomputes
    planned(999)
    assert "memory: about" in capsys.readouterr().out


def test_a_card_that_is_too_small_is_refused_with_the_ways_out(planned):
    with pytest.raises(ValueError, match="about 1,240 MB are needed, and 1,100 MB are there; try --pack-size 1") as no:
        planned(1.6)
    assert "--quantize nf4, or a lower --max-length" in str(no.value)


def test_on_a_cpu_it_is_said_and_tried(planned, capsys):
    workload = planned(1.6, gpus_per_trial=0)
    assert (workload.micro_batch, workload.recomputes) == (1, True)
    assert "1,100 MB are there" in capsys.readouterr().out


def test_a_model_of_which_nothing_can_be_known_is_trained_all_the_same(planned, monkeypatch, capsys):
    def unknown(*_):
        raise ValueError("--model bundled: its memory cannot be known before it is loaded (why)")

    monkeypatch.setattr(memory, "_footprint", unknown)
    workload = planned(1.6)
    assert (workload.rows_per_pass, workload.recomputes) == (None, False)
    assert "cannot be known" in capsys.readouterr().out


def test_each_card_is_said_to_take_the_best_that_fits():
    bits = dataclasses.replace(FOOTPRINT, base=10**8)
    lines = [memory.on_card(8, size, FOOTPRINT, bits) for size in (1, 2, 80)]
    assert lines == ["nf4, 2 rows in a pass, gradient checkpointing, 1 trial at once",
                     "bfloat16, 1 row in a pass, gradient checkpointing, 1 trial at once",
                     "bfloat16, 8 rows in a pass, 8 trials at once"]  # fmt: skip


@pytest.mark.parametrize(("device", "there"), [(CUDA, 8e10), (CPU, None)])
def test_a_dry_run_plans_for_the_card_that_is_here_and_for_none_elsewhere(monkeypatch, device, there):
    monkeypatch.setattr(memory, "here", lambda: types.SimpleNamespace(name=device, total_bytes=lambda: 8e10))
    assert memory.bytes_here(SearchPlan(gpus_per_trial=1)) == there


@pytest.mark.parametrize(("model", "dtype"), [("bundled", "float32"), ("some/model", "bfloat16")])
def test_a_dry_run_takes_the_dtype_that_a_gpu_would_train_over(model, dtype):
    plan = SearchPlan(model=model, gpus_per_trial=1)
    _, checked = memory.on_this_machine(plan, Preflight(None, plan.workload(RankBudget(10)), "", {}))
    assert checked.workload.precision.dtype == dtype


@pytest.mark.parametrize(("pack_size", "params"), [(1, 9 * 30), (2, 2 * 20 + 9 * 30)])
def test_trials_of_a_pack_are_planned_with_the_rows_that_all_of_them_need(pack_size, params):
    sites = [Site("a", 10, 10, 0, "mlp"), Site("b", 10, 20, 0, "mlp")]
    plan = SearchPlan(gpus_per_trial=0, pack_size=pack_size)
    workload = plan.trained_with(plan.workload(RankBudget(10)))
    allocations = {name: types.SimpleNamespace(ranks=ranks) for name, ranks in (("x", {"a": 2}), ("y", {"b": 9}))}
    checked = Preflight(types.SimpleNamespace(sites=sites), workload, "", {**allocations, "z": None})
    assert memory._row_params(workload, checked) == params


class Noted(TorchDispatchMode):
    """Notes, in order, which products are computed, and when the device is waited for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition(".")[0].removeprefix("aten::")
        if name in ("mm", "_local_scalar_dense"):
            self.asked.append((name, *args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("of_gpu", "size"), [(False, 512), (True, 4)])
def test_a_device_is_timed_once_it_is_ready_and_with_products_that_keep_it_busy(monkeypatch, of_gpu, size):
    monkeypatch.setattr(preview, "PRODUCT_OF_GPU", 4)
    monkeypatch.setattr(Device, "has_own_memory", of_gpu)
    clock = itertools.count()
    with Noted() as noted:
        monkeypatch.setattr(preview.time, "perf_counter", lambda: noted.asked.append(("clock",)) or next(clock))
        assert preview._operations_a_second(times=2) == 4 * size**3
    product, read = ("mm", size, size), ("_local_scalar_dense",)
    assert noted.asked == [product, read, ("clock",), product, product, read, ("clock",)]
