"""Other processes than the driver die: trials go on from their checkpoints, and a dead Ray is no lost search."""

import contextlib
import json
import os
import signal
import time

import psutil
import pytest
import ray

from analysis.results.rows import read_rows
from trainables.actors.packed_trainable import PackedTrainable
from tuning.cli import main
from tuning.trials import tuner

FLAGS = ("--num-samples", 4, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0,
         "--scheduler", "fifo")  # fmt: skip
REPORTS = [2, 4, 6, 8]
"""Steps of each trial of fakes; a real one has ``LONG`` and makes its reports at ``LATER``."""
SHORT, LONG, LATER = ("--epochs", 4), ("--epochs", 100), [50, 100, 150, 200]


@pytest.fixture
def together(fake_hosts, small, tmp_path, monkeypatch, capfd):
    """A function that searches with trials of a class, all in one host, and returns the rows."""

    def run(kind, *flags, status=0):
        monkeypatch.setattr(tuner, "PackedTrainable", kind)
        every = [*small, *FLAGS, *SHORT, *flags, "--runs-dir", tmp_path, "--name", "together"]
        assert main([str(flag) for flag in every]) == status, capfd.readouterr().err
        return sorted(read_rows(tmp_path / "together" / "rows.jsonl"), key=lambda row: row.trial_id)

    return run


def _assert_whole(rows, reports=REPORTS):
    assert {row.status for row in rows} == {"finished"}
    assert all([report["step"] for report in row.history] == reports for row in rows)


def _battered(tmp_path):
    """Return a class whose first trial raises once, whose second is killed once, and whose third does both in turn."""

    class Battered(PackedTrainable):  # local, so that it travels to the trial's process by value
        def step(self):
            trial, mark = self.config["trial_id"], tmp_path / self.config["trial_id"]
            if trial in ("t001", "t002") and self.iteration == 2 and not mark.exists():
                mark.touch()
                if trial == "t001":
                    raise RuntimeError("once")
                key = self.key
                self.host.step.remote(key)  # which the host goes on with
                while ray.get(self.host.__ray_call__.remote(lambda host: host.sessions[key][1].learner.step)) == 4:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            if trial == "t003" and self.iteration == 1:
                if mark.exists():
                    os.kill(os.getpid(), signal.SIGKILL)
                mark.touch()
                raise RuntimeError("once")
            report = super().step()
            seen = ray.get(
                self.host.__ray_call__.remote(
                    lambda host: [os.getpid(), (tmp_path / "t002").exists(), *(n for n, *_ in host.sessions.values())]
                )
            )
            with (tmp_path / "seen").open("a") as file:
                print(json.dumps(seen), file=file)
            return report

    return Battered


@pytest.mark.search
@pytest.mark.thorough
def test_trials_that_raise_or_are_killed_go_on_from_their_checkpoints_in_the_same_host_and_fail_if_it_is_too_often(
    together, tmp_path, around_restarts
):
    flags = ("--max-failures", 1, "--pack-size", 4, "--max-concurrent-trials", 2)
    raised, killed, failed, other = together(_battered(tmp_path), *flags, status=3)
    _assert_whole([raised, killed, other])
    assert [row.restarts for row in (raised, killed, other)] == [1, 1, 0]
    assert around_restarts(tmp_path / "together") == [(4, 6)] * 2
    assert (failed.status, failed.final_eval_loss) == ("failed", None)
    assert failed.error.startswith("ActorDiedError: ")
    assert "3 restarts" in (tmp_path / "together" / "report.md").read_text()
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert len({pid for pid, *_ in seen}) == 1
    after_the_kill = [names for _, was_killed, *names in seen if was_killed]
    assert any(killed.experiment_name in names for names in after_the_kill)
    assert all(len(names) == len(set(names)) for names in after_the_kill), "nothing of the dead one is kept"


def _harmful(tmp_path, device_breaks):
    """Return a class whose first trial harms its host before its third report, once."""

    def harm(host):  # local, too: what is not, its host would import this file for, and with it torch
        if not device_breaks:
            os.kill(os.getpid(), signal.SIGKILL)
        import torch

        def step(trials):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        host.executor.pack.step = step

    class Harmful(PackedTrainable):
        def step(self):
            if self.config["trial_id"] == "t001" and self.iteration == 2 and not (tmp_path / "met").exists():
                (tmp_path / "met").touch()
                with contextlib.suppress(ray.exceptions.RayActorError):
                    ray.get(self.host.__ray_call__.remote(harm))
            return super().step()

    return Harmful


@pytest.mark.search
@pytest.mark.thorough
@pytest.mark.parametrize("device_breaks", [False, True])
def test_packed_trials_go_on_in_another_host_if_theirs_dies_or_its_device_breaks(
    together, tmp_path, around_restarts, device_breaks
):
    rows = together(_harmful(tmp_path, device_breaks), "--num-samples", 2, "--pack-size", 2)
    _assert_whole(rows)
    assert rows[0].restarts == 1
    assert rows[1].restarts <= 1
    restarts = around_restarts(tmp_path / "together")
    assert (4, 6) in restarts, "the trial in whose hands it died"
    assert all(after >= before for before, after in restarts), "they go on from checkpoints"


def _kill_in_the_middle(folder):
    """Kill the process of a trial that has told two of its four reports, and say whether there was one."""
    for path in folder.glob("ray/*/*/result.json"):
        told = path.read_text().split("\n")[:-1]
        if len(told) == 2:
            os.kill(json.loads(told[-1])["pid"], signal.SIGKILL)
            return True
    return False


@pytest.mark.process
@pytest.mark.thorough
def test_a_real_trial_alone_in_its_process_that_is_killed_goes_on_from_its_checkpoint(tree, around_restarts):
    tree.script = "tune.py"
    process = tree.new("trial", *FLAGS, *LONG, "--isolation", "process")
    tree.wait_for(lambda: process.poll() is not None or _kill_in_the_middle(tree.runs / "trial"))
    status, _, errors = tree.done(process)
    assert (status, errors) == (0, "")
    rows = read_rows(tree.runs / "trial" / "rows.jsonl")
    _assert_whole(rows, LATER)
    assert sorted(row.restarts for row in rows) == [0, 0, 0, 1]
    ((before, after),) = around_restarts(tree.runs / "trial")
    assert after >= before >= 100, "a report later than the one before its checkpoint"


@pytest.mark.search
@pytest.mark.thorough
def test_a_real_trial_alone_in_its_process_that_raises_goes_on_from_its_checkpoint(
    shared_ray, small, tmp_path, monkeypatch, capfd, around_restarts
):
    mark = tmp_path / "raised"

    class Raising(PackedTrainable):  # local, so that it travels to the trial's process by value
        def step(self):
            if self.config["trial_id"] == "t001" and self.iteration == 2 and not mark.exists():
                mark.touch()
                raise RuntimeError("once")
            return super().step()

    monkeypatch.setattr(tuner, "PackedTrainable", Raising)
    flags = [*small, *FLAGS, *LONG, "--isolation", "process", "--runs-dir", tmp_path, "--name", "raised-once"]
    assert main([str(flag) for flag in flags]) == 0, capfd.readouterr().err
    rows = read_rows(tmp_path / "raised-once" / "rows.jsonl")
    _assert_whole(rows, LATER)
    assert sorted(row.restarts for row in rows) == [0, 0, 0, 1]
    assert around_restarts(tmp_path / "raised-once") == [(100, 150)]


@pytest.mark.process
@pytest.mark.thorough
def test_real_packed_trials_survive_the_death_of_their_host(tree, around_restarts):
    tree.script = "tune.py"
    flags = ("--epochs", 200, "--max-concurrent-trials", 1, "--cpus-per-trial", 2)
    process = tree.new("host", *FLAGS, *flags)
    hosts = {}  # while a host trains, Ray gives it the trial's name

    def in_the_middle():
        hosts.update({child.pid: child for child in _workers(process, "Host")})
        told = (path.read_bytes().count(b"\n") for path in (tree.runs / "host").glob("ray/*/*/result.json"))
        return hosts and any(2 <= reports < 4 for reports in told)

    tree.wait_for(lambda: process.poll() is not None or in_the_middle())
    for host in hosts.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            host.kill()
    status, _, errors = tree.done(process)
    assert status == 0, errors
    rows = read_rows(tree.runs / "host" / "rows.jsonl")
    assert [row.status for row in rows] == ["finished"] * 4
    assert all([report["step"] for report in row.history] == [100, 200, 300, 400] for row in rows)
    ((before, after),) = around_restarts(tree.runs / "host")
    assert after >= before >= 200, "it went on from a checkpoint"


@pytest.mark.process
@pytest.mark.thorough
@pytest.mark.parametrize(("victim", "called"), [("raylet", "raylet"), ("gcs_server", "GCS")])
def test_a_search_whose_raylet_or_gcs_dies_can_be_taken_up(tree, victim, called):
    tree.step_seconds = 0.02
    process = tree.new("raylet", *FLAGS, *LONG)
    _after_a_report(tree, process, "raylet")
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # once the raylet has ended, so do its workers
            if child.name() == victim:
                child.kill()
    began = time.monotonic()
    status, _, errors = tree.done(process)
    assert time.monotonic() - began < 30, "Ray itself notices the end of its GCS after a minute"
    (line,) = errors.splitlines()
    assert status == 5
    assert line.startswith(f"Error: Ray has ended: its {called} was killed")
    assert line.endswith(f"To go on: python tune.py --resume raylet --runs-dir {tree.runs}")
    status, _, errors = tree.done(tree.start("--resume", "raylet"))
    assert (status, errors) == (0, "")
    rows = read_rows(tree.runs / "raylet" / "rows.jsonl")
    assert sorted(row.trial_id for row in rows) == ["t001", "t002", "t003", "t004"]
    assert {row.status for row in rows} == {"finished"}


def _after_a_report(tree, process, name):
    record = tree.runs / name / "record.jsonl"
    tree.wait_for(lambda: process.poll() is not None or (record.exists() and b'"reported"' in record.read_bytes()))
    tree.wait_for(lambda: _workers(process, "Trainable") or _workers(process, "Host"))


def _workers(process, name):
    """Ray's workers that are busy with ``name``; Ray puts that into their titles."""
    workers = []
    for child in process.children(recursive=True):
        try:
            title = "".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        workers += [child] if title.startswith("ray::") and name in title else []
    return workers
