"""Other processes than the driver die: trials go on from their checkpoints, and a dead Ray is no lost search."""

import contextlib
import json
import os
import signal
import time

import psutil
import pytest
import ray

from analysis.rows import read_rows
from trainables.proxy import PackedTrainable
from tuning import search
from tuning.cli import main

pytestmark = pytest.mark.slow
FLAGS = ("--num-samples", 4, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0,
         "--scheduler", "fifo", "--epochs", 100)  # fmt: skip


def _kill_in_the_middle(folder):
    """Kill the process of a trial that has told two of its four reports, and say whether there was one."""
    for path in folder.glob("ray/*/*/result.json"):
        told = path.read_text().split("\n")[:-1]
        if len(told) == 2:
            os.kill(json.loads(told[-1])["pid"], signal.SIGKILL)
            return True
    return False


def test_a_trial_that_is_killed_goes_on_from_its_checkpoint_and_no_other_is_begun_again(tree, around_restarts):
    process = tree.new("trial", *FLAGS, "--isolation", "process")
    tree.wait_for(lambda: process.poll() is not None or _kill_in_the_middle(tree.runs / "trial"))
    status, _, errors = tree.done(process)
    assert (status, errors) == (0, "")
    rows = read_rows(tree.runs / "trial" / "rows.jsonl")
    assert [row.status for row in rows] == ["finished"] * 4
    assert sorted(row.restarts for row in rows) == [0, 0, 0, 1]
    assert all([report["step"] for report in row.history] == [50, 100, 150, 200] for row in rows)
    ((before, after),) = around_restarts(tree.runs / "trial")
    assert after >= before >= 100, "a report later than the one before its checkpoint"
    assert "1 restart" in (tree.runs / "trial" / "report.md").read_text()


def test_a_trial_that_is_killed_too_often_is_a_failed_row_and_status_3(tree):
    process = tree.new("failed", *FLAGS, "--isolation", "process", "--max-failures", 0)
    tree.wait_for(lambda: process.poll() is not None or _kill_in_the_middle(tree.runs / "failed"))
    status, _, errors = tree.done(process)
    assert status == 3, errors
    rows = read_rows(tree.runs / "failed" / "rows.jsonl")
    assert sorted(row.status for row in rows) == ["failed", "finished", "finished", "finished"]
    (failed,) = [row for row in rows if row.status == "failed"]
    assert failed.error
    assert failed.final_eval_loss is None


def test_packed_trials_survive_the_death_of_their_host(tree, around_restarts):
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


def _raising_once(trainable, mark):
    class Raising(trainable):  # local, so that it travels to the trial's process by value
        def step(self):
            if self.config["trial_id"] == "t001" and self.iteration == 2 and not mark.exists():
                mark.touch()
                raise RuntimeError("once")
            return super().step()

    return Raising


@pytest.mark.parametrize(("isolation", "trainable"), [("packed", "PackedTrainable"), ("process", "LoraTrainable")])
def test_a_trial_that_raises_goes_on_from_its_checkpoint(
    small, tmp_path, monkeypatch, capfd, around_restarts, isolation, trainable
):
    monkeypatch.setattr(search, trainable, _raising_once(getattr(search, trainable), tmp_path / "raised"))
    flags = [*small, *FLAGS, "--isolation", isolation, "--runs-dir", tmp_path, "--name", "raised-once"]
    assert main([str(flag) for flag in flags]) == 0, capfd.readouterr().err
    rows = read_rows(tmp_path / "raised-once" / "rows.jsonl")
    assert [row.status for row in rows] == ["finished"] * 4
    assert sorted(row.restarts for row in rows) == [0, 0, 0, 1]
    assert all([report["step"] for report in row.history] == [50, 100, 150, 200] for row in rows)
    assert around_restarts(tmp_path / "raised-once") == [(100, 150)]


@pytest.fixture
def together(small, tmp_path, monkeypatch, capfd):
    """Search with trials of a class, all in one host, and return the rows."""

    def run(trainable):
        monkeypatch.setattr(search, "PackedTrainable", trainable)
        flags = [*small, *FLAGS, "--pack-size", 4, "--runs-dir", tmp_path, "--name", "together"]
        assert main([str(flag) for flag in flags]) == 0, capfd.readouterr().err
        rows = read_rows(tmp_path / "together" / "rows.jsonl")
        assert [row.status for row in rows] == ["finished"] * 4
        assert all([report["step"] for report in row.history] == [50, 100, 150, 200] for row in rows)
        return rows

    return run


def _killed_once(mark, seen):
    class Killed(PackedTrainable):
        def step(self):
            if self.config["trial_id"] == "t001" and self.iteration == 2 and not mark.exists():
                mark.touch()
                key = self.key
                self.host.step.remote(key)  # which the host goes on with
                while ray.get(self.host.__ray_call__.remote(lambda host: host.sessions[key][1].learner.step)) == 100:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            report = super().step()
            found = ray.get(
                self.host.__ray_call__.remote(
                    lambda host: [os.getpid(), mark.exists(), *(name for name, *_ in host.sessions.values())]
                )
            )
            with seen.open("a") as file:
                print(json.dumps(found), file=file)
            return report

    return Killed


def test_a_packed_trial_that_is_killed_goes_on_in_the_same_host_which_keeps_nothing_of_the_dead_one(
    together, tmp_path, around_restarts
):
    rows = sorted(together(_killed_once(tmp_path / "killed", tmp_path / "seen")), key=lambda row: row.trial_id)
    assert [row.restarts for row in rows] == [1, 0, 0, 0]
    assert around_restarts(tmp_path / "together") == [(100, 150)]
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert len({pid for pid, *_ in seen}) == 1
    after_the_kill = [names for _, killed, *names in seen if killed]
    assert any(rows[0].experiment_name in names for names in after_the_kill)
    assert all(len(names) == len(set(names)) for names in after_the_kill)


def _breaking_the_device_once(mark):
    class Breaking(PackedTrainable):
        def step(self):
            if self.config["trial_id"] == "t001" and self.iteration == 2 and not mark.exists():
                mark.touch()
                ray.get(self.host.__ray_call__.remote(break_device))
            return super().step()

    def break_device(host):
        import torch  # in the host alone

        def step(slots):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        host.conductor.pack.step = step

    return Breaking


def test_a_host_whose_device_breaks_ends_and_its_trials_go_on_in_another(together, tmp_path, around_restarts):
    rows = together(_breaking_the_device_once(tmp_path / "broken"))
    assert 1 <= sum(row.restarts for row in rows) <= 4
    assert all(row.restarts <= 1 for row in rows)
    restarts = around_restarts(tmp_path / "together")
    assert (100, 150) in restarts, "the trial in whose hands it broke"
    assert all(after >= before for before, after in restarts)


def test_a_search_whose_raylet_dies_can_be_taken_up(tree):
    process = tree.new("raylet", *FLAGS)
    _after_a_report(tree, process, "raylet")
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # once the raylet has ended, so do its workers
            if child.name() == "raylet":
                child.kill()
    status, _, errors = tree.done(process)
    (line,) = errors.splitlines()
    assert status == 5
    assert line.startswith("Error: Ray has ended: ")
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
    found = []
    for child in process.children(recursive=True):
        try:
            title = "".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        found += [child] if title.startswith("ray::") and name in title else []
    return found
