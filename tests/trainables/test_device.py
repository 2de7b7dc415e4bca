"""What trials ask of a device, and that nobody else spells one out."""

import re
from pathlib import Path

import pytest
import torch

from trainables.models import device, free_memory
from trainables.models.device import Device, device_of, given_by
from trainables.models.free_memory import free_bytes

ROOT = Path(__file__).parents[2]


def test_no_other_file_spells_a_device_of_cuda_out():
    packages = [
        path for name in ("strategies", "trainables", "tuning", "analysis") for path in (ROOT / name).rglob("*.py")
    ]
    named = [path for path in packages if re.search(r"""["'`]cuda["'`]|torch\.(cuda|mps)\b""", path.read_text())]
    assert [path.name for path in named] == ["device.py", "trl_script.py"], "the second is a script for others"


def test_a_device_is_what_was_given():
    assert [given_by(gpus) for gpus in (0.0, [], 0.25, 1.0, ["0"], "mps")] == [
        "cpu",
        "cpu",
        "cuda",
        "cuda",
        "cuda",
        "mps",
    ]


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match="device tpu: must be one of cpu, cuda, mps"):
        device_of("tpu")


def test_the_cpu_computes_in_float32_and_its_numbers_go_on_where_they_were():
    cpu = device_of("cpu")
    state = cpu.rng_state()
    first = torch.rand(3)
    cpu.set_rng_state(state)
    with cpu.autocast():
        assert (torch.rand(3) == first).all()
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert cpu.arithmetic == "float32"
    assert 2**20 < cpu.peak_bytes() < 2**40
    assert cpu.available_bytes() > 2**20


def test_a_gpu_of_cuda_computes_in_bfloat16_and_its_own_memory_counts(monkeypatch):
    asked = []
    answers = {"max_memory_allocated": 7, "memory_reserved": 3, "mem_get_info": (5, 90), "get_rng_state": "state"}
    for name in (*answers, "set_rng_state", "empty_cache", "synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(
            torch.cuda, name, lambda *given, name=name: asked.append((name, *given)) or answers.get(name)
        )
    monkeypatch.setattr(torch, "autocast", lambda *given: given)
    cuda = device_of("cuda")
    assert (cuda.peak_bytes(), cuda.available_bytes(), cuda.rng_state()) == (7, 8, "state")
    assert cuda.autocast() == ("cuda", torch.bfloat16)
    asked.clear()
    cuda.set_rng_state("state")
    cuda.release_memory()
    cuda.synchronize()
    cuda.forget_peak()
    assert asked == [("set_rng_state", "state"), ("empty_cache",), ("synchronize",), ("reset_peak_memory_stats",)]


@pytest.mark.parametrize(("cuda", "mps", "name"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_best_device_is_taken(monkeypatch, cuda, mps, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert device.here().name == name


def test_the_gpu_of_an_apple_chip_computes_in_float32(monkeypatch):
    asked = []
    for name in ("get_rng_state", "set_rng_state", "empty_cache", "synchronize"):
        monkeypatch.setattr(torch.mps, name, lambda *given, name=name: asked.append((name, *given)))
    mps = device_of("mps")
    assert mps.arithmetic == "float32"
    assert mps.head_elements > Device("cpu").head_elements
    mps.rng_state()
    mps.set_rng_state("state")
    mps.release_memory()
    mps.synchronize()
    assert asked == [("get_rng_state",), ("set_rng_state", "state"), ("empty_cache",), ("synchronize",)]


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)


@pytest.mark.parametrize(("line", "top", "limit", "use", "cache"), [
    ("0::/job/step", ".", "max", "current", "inactive_file"),
    ("4:cpu,memory:/job/step", "memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
])  # fmt: skip
def test_memory_is_what_the_tightest_group_of_the_process_leaves(line, top, limit, use, cache, tmp_path):
    membership, groups = tmp_path / "membership", tmp_path / "groups"
    membership.write_text(f"1:name=systemd:/job\n{line}\n")
    assert free_bytes(membership, groups) > 2**20, "the machine's"
    step, stat = groups / top / "job" / "step", f"anon 9\n{cache} 300\n"
    group(step, **{limit: "max" if top == "." else str(2**63), use: "5000", "stat": stat})
    assert free_bytes(membership, groups) > 2**20
    group(step.parent, **{limit: "9000", use: "5000", "stat": stat})
    assert free_bytes(membership, groups) == 4300
    group(step, **{limit: "7000"})
    assert free_bytes(membership, groups) == 2300
    group(groups / top, **{limit: "400", use: "500"})
    assert free_bytes(membership, groups) == 0
    assert free_bytes(tmp_path / "none", groups) > 2**20


def test_the_cpu_has_what_its_container_leaves_and_what_the_process_has(monkeypatch):
    monkeypatch.setattr(free_memory, "free_bytes", lambda: 10**15)
    assert 10**15 < device_of("cpu").available_bytes() < 10**15 + 2**40
