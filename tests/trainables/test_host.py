"""What a host does about processes that end: its trials', its search's, and its own once its device is broken."""

import ctypes
import dataclasses
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import ray
import torch

from analysis.results.trial_config import TrialConfig
from trainables.actors import liveness
from trainables.actors.host import Host, TrialHandle
from trainables.evidence import measurements
from trainables.postprocess.reload import mean_loss
from trainables.training.inputs import base_of, splits_of

CONFIG = TrialConfig("baseline", learning_rate=0.01)


@pytest.fixture
def host(monkeypatch):
    """A host in this process; a reference to a workload is the workload."""
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    return Host()


@pytest.fixture
def reference(workload):
    """Of a workload; a trial's only report is after a hundred steps."""
    return [dataclasses.replace(workload, epochs=25, reports=1)]


@pytest.fixture
def process():
    """A function that starts a process, which stands for a trial's."""
    started = []

    def start():
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def kill(process):
    """Kill a process that nobody waits for yet: it becomes a zombie."""
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_untouched_base_has_the_loss_that_plain_transformers_measure_row_by_row(host, reference, split):
    loss = host.base_loss(reference, split)
    workload = reference[0]
    rows = [(example.input_ids, example.labels) for example in getattr(splits_of(workload), split)]
    assert loss == pytest.approx(mean_loss(base_of(workload).model, rows), abs=1e-5)
    assert host.base_loss(reference, "test") != pytest.approx(host.base_loss(reference, "validation"), abs=1e-5)


def test_evidence_is_measured_in_smaller_passes_where_memory_ends_and_refused_in_one_line_after_one_row(
    host, reference, monkeypatch
):
    tried = []

    def measure(workload, measurement, rows):
        tried.append(rows)
        if rows > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return "measured"

    monkeypatch.setattr(measurements, "measure", measure)
    most, fitting = measurements.rows_of_pass(reference[0]), 2
    assert host.measure(reference, "m:measure") == "measured"
    fitting = 0
    with pytest.raises(ValueError, match="memory does not suffice to measure m:measure on one row; lower --max-length"):
        host.measure(reference, "m:measure")
    assert tried[0] == most > 2
    assert tried[-1] == 1


@pytest.mark.process
def test_a_trial_whose_process_was_killed_is_let_go_when_the_next_comes_and_no_other_is(
    host, reference, process, wait_for
):
    killed, other, later = (process() for _ in range(3))
    host.admit(TrialHandle("killed", killed.pid), reference, "trial", CONFIG, None)
    host.admit(TrialHandle("other", other.pid), reference, "trial", CONFIG, None)  # of the same name, as Ray may do it
    session = host.sessions["killed"][1]
    with ThreadPoolExecutor(2) as pool:
        report, others_report = (pool.submit(host.step, key) for key in ("killed", "other"))
        wait_for(lambda: session.learner.step >= 3)
        kill(killed)
        host.admit(TrialHandle("later", later.pid), reference, "trial", CONFIG, None)
        left_at = session.learner.step
        assert [*host.sessions] == ["other", "later"]
        with pytest.raises(RuntimeError, match="the trial has left the pack"):
            report.result(timeout=60)
        assert others_report.result()["step"] == 100
    with pytest.raises(RuntimeError, match="the trial has left the pack"):
        session.train(1)
    assert session.learner.step == left_at < 100


@pytest.mark.process
def test_it_is_let_go_when_another_trains_on_too(host, reference, process):
    killed, other = process(), process()
    for key, one in (("killed", killed), ("other", other)):
        host.admit(TrialHandle(key, one.pid), reference, key, CONFIG, None)
    kill(killed)
    host.step("other")
    assert [*host.sessions] == ["other"]


@pytest.mark.process
def test_what_a_killed_trial_had_is_not_kept_when_the_search_stops(host, reference, process, tmp_path):
    killed, other = process(), process()
    for key, one in (("killed", killed), ("other", other)):
        host.admit(TrialHandle(key, one.pid), reference, key, CONFIG, None)
        host.sessions[key][1].train(1)
    kill(killed)
    host.save_all(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.process
def test_a_trial_goes_where_the_fewest_live(host, process):
    first, second, third = (process() for _ in range(3))
    assert [host.assign(TrialHandle(f"{n}", p.pid), 2) for n, p in enumerate((first, second, third))] == [0, 1, 0]
    second.kill()
    second.wait()
    assert [host.assign(TrialHandle(key, first.pid), 2) for key in "abc"] == [1, 1, 0]
    for key in ("0", "2", "c", "c", "nobody"):
        host.leave(key)
    assert host.assign(TrialHandle("d", third.pid), 2) == 0


def test_a_trial_that_was_not_let_in_can_be_forgotten_and_no_other_is(host, reference):
    host.admit(TrialHandle("a", os.getpid()), reference, "a", CONFIG, None)
    host.free("nobody")
    assert [*host.sessions] == ["a"]
    assert host.step("a")["step"] == 100


ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"


@pytest.fixture
def left(monkeypatch):
    """Have the process end by an exception that tells its status."""

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.parametrize("error", [torch.AcceleratorError("HIP error: unknown\nmore"), RuntimeError(ILLEGAL)])
@pytest.mark.parametrize(
    "what",
    [
        lambda host, reference: host.admit(TrialHandle("b", os.getpid()), reference, "b", CONFIG, None),
        lambda host, reference: host.step("a"),
        lambda host, reference: host.save("a", "anywhere"),
        lambda host, reference: host.save_all("anywhere"),
    ],
)
def test_it_ends_and_says_why_once_its_device_is_broken(host, reference, left, monkeypatch, capsys, error, what):
    def broken(*arguments, **named):
        raise error

    host.admit(TrialHandle("a", os.getpid()), reference, "a", CONFIG, None)
    session = host.sessions["a"][1]
    session.learner.step = 1
    for owner, name in ((session.pack, "admit"), (session.pack, "step"), (session.learner, "save")):
        monkeypatch.setattr(owner, name, broken)
    with pytest.raises(SystemExit) as end:
        what(host, reference)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"This host ends, for its device is broken: {str(error).splitlines()[0]}\n"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("the size of tensor a must match the size of tensor b"),
    ],
)
def test_it_stays_where_memory_does_not_suffice_or_a_trial_is_wrong(host, reference, left, monkeypatch, error):
    def failing(loss, tokens):
        raise error

    host.admit(TrialHandle("a", os.getpid()), reference, "a", CONFIG, None)
    monkeypatch.setattr(host.sessions["a"][1].learner, "count", failing)
    with pytest.raises(type(error)):
        host.step("a")


def test_what_a_failed_trial_has_is_not_kept(host, reference, monkeypatch, tmp_path):
    for key in ("well", "failed"):
        host.admit(TrialHandle(key, os.getpid()), reference, key, CONFIG, None)
        host.sessions[key][1].train(1)
    monkeypatch.setattr(host.sessions["failed"][1].learner, "count", lambda loss, tokens: torch.empty(2**60))
    with pytest.raises(RuntimeError, match="memory"):
        host.step("failed")
    host.save_all(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["well"]


UNSURE = [ray.exceptions.RpcError("no answer"), RuntimeError("not now"), ConnectionError("not there")]


@pytest.mark.parametrize(("last", "status"), [(ValueError("no such actor"), 0), (KeyError("nobody expects this"), 1)])
def test_a_host_outlives_what_ray_cannot_tell_and_ends_when_the_search_is_gone(left, monkeypatch, last, status):
    answers = iter([object(), *UNSURE, object(), last])

    def get_actor(name):
        assert name == "lease"
        if isinstance(answer := next(answers), Exception):
            raise answer

    monkeypatch.setattr(liveness, "LEASE_SECONDS", 0)
    monkeypatch.setattr(ray, "get_actor", get_actor)
    with pytest.raises(SystemExit) as end:
        liveness.end_with("lease")
    assert end.value.code == status
    assert next(answers, None) is None


def test_memory_that_lies_free_between_what_is_in_use_goes_back_when_a_trial_leaves(host):
    """Blocks of 64 kB, of which every eighth stays: the C library by itself gives back only what is free at the end."""
    libc, process = ctypes.CDLL("libc.so.6"), psutil.Process()
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(1 << 16) for _ in range(4000)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 16)
    for number, block in enumerate(blocks):
        if number % 8:
            libc.free(ctypes.c_void_p(block))
    before = process.memory_info().rss
    host.free("nobody")
    assert before - process.memory_info().rss > 150e6
    for block in blocks[::8]:
        libc.free(ctypes.c_void_p(block))
