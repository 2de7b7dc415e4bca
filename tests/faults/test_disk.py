"""A disk that fills up: a small file system of its own stands for it."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ray.tune.logger import JsonLoggerCallback

from analysis.results.rows import read_rows
from tuning.preflight import disk_space
from tuning.results import finalize
from tuning.state.continuation import saved_plan
from tuning.state.record import Record
from tuning.trials import tuner

FLAGS = ("--num-samples", 6, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0,
         "--max-concurrent-trials", 1)  # fmt: skip
DISK_BYTES = 40_000_000


@pytest.fixture
def disk(tmp_path, lacking):
    """A folder that is a disk of 40 MB."""
    folder = tmp_path / "runs"
    folder.mkdir(exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True, check=False).returncode:
        lacking("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path, left_bytes: int) -> Path:
    """Take up all of the disk but some bytes."""
    filler = disk / "filler"
    with contextlib.suppress(OSError):  # the search writes at the same time
        filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left_bytes)))
    return filler


@pytest.mark.process
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(disk, small, told):
    _fill(disk, 2_000_000)
    status, _, line = told(*small, *FLAGS, "--runs-dir", disk, "--name", "small")
    assert (status, len(line.splitlines())) == (2, 1)
    assert f"--runs-dir {disk}: 2 MB free, about " in line
    assert [path.name for path in disk.iterdir()] == ["filler"]


@pytest.mark.process
@pytest.mark.parametrize("left_bytes", [100_000, 0])
def test_a_disk_that_fills_up_stops_the_search_which_goes_on_once_there_is_room(
    simulated, told, disk, small, monkeypatch, left_bytes
):
    """To the last byte, or nearly, while the row after the first is about to be written."""
    ended = Record.ended

    def filling(record, row):
        if len(record.rows) == 1:
            _fill(disk, left_bytes)
        ended(record, row)

    monkeypatch.setattr(Record, "ended", filling)
    status, _, errors = told(*small, *FLAGS, "--runs-dir", disk, "--name", "full")
    assert status == 4, errors
    (line,) = errors.splitlines()
    assert re.search(rf"{disk}/full.*: no room left, [0-4] MB free, at least 5 MB needed to go on", line)
    assert "python tune.py --resume full --runs-dir" in line
    kept = read_rows(disk / "full" / "rows.jsonl")
    assert {row.status for row in kept} <= {"finished", "stopped"}
    assert 1 <= len(kept) <= 2
    (disk / "filler").unlink()
    monkeypatch.setattr(Record, "ended", ended)
    _assert_it_goes_on(told, disk, "full", kept)


def _assert_it_goes_on(told, runs, name, kept):
    status, _, errors = told("--resume", name, "--runs-dir", runs)
    assert (status, errors) == (0, "")
    rows = read_rows(runs / name / "rows.jsonl")
    assert rows[: len(kept)] == kept
    assert sorted(row.trial_id for row in rows) == [f"t00{number}" for number in range(1, 7)]
    assert {row.status for row in rows} <= {"finished", "stopped"}


@pytest.mark.process
@pytest.mark.thorough
def test_a_real_search_stops_and_goes_on_in_the_same_way(disk, tree, told):
    tree.script = "tune.py"
    process, rows = tree.new("full", *FLAGS), disk / "full" / "rows.jsonl"
    tree.wait_for(lambda: process.poll() is not None or (rows.exists() and rows.read_bytes().endswith(b"\n")))
    filler = _fill(disk, 100_000)
    status, _, errors = tree.done(process)
    assert status == 4, errors
    (line,) = errors.splitlines()
    assert re.search(rf"{disk}/full: no room left, [0-4] MB free, at least 5 MB needed to go on", line)
    kept = read_rows(rows)
    filler.unlink()
    status, _, errors = tree.done(tree.start("--resume", "full"))
    assert (status, errors) == (0, "")
    assert read_rows(rows)[: len(kept)] == kept
    assert sorted(row.trial_id for row in read_rows(rows)) == [f"t00{number}" for number in range(1, 7)]


@pytest.mark.search
@pytest.mark.thorough
def test_a_disk_that_rays_own_files_find_full_stops_the_search_as_well(fake_hosts, told, small, tmp_path, monkeypatch):
    class Full(JsonLoggerCallback):
        def log_trial_result(self, iteration, trial, result):
            if trial.config["trial_id"] == "t003":
                self._trial_files[trial].close()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().log_trial_result(iteration, trial, result)

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "JsonLoggerCallback", Full)
        status, _, errors = told(*small, *FLAGS, "--runs-dir", tmp_path, "--name", "rays")
    assert status == 4
    (line,) = errors.splitlines()
    assert line.startswith(
        f"Error: {tmp_path}/rays, or Ray's temporary folder: No space left on device: no room left, "
    )
    assert line.endswith(f"free some, then: python tune.py --resume rays --runs-dir {tmp_path}")
    kept = read_rows(tmp_path / "rays" / "rows.jsonl")
    assert [row.trial_id for row in kept] == ["t001", "t002"]
    _assert_it_goes_on(told, tmp_path, "rays", kept)


def test_a_finished_search_keeps_an_adapter_of_each_trial_and_nothing_to_go_on_with(left):
    plan, rows = saved_plan(Record(left)), read_rows(left / "rows.jsonl")
    assert [*left.rglob("state.safetensors")] == []
    assert len([*left.glob("ray/*/*/checkpoint_*/session")]) == len(rows) == 8
    assert all(finalize.adapter_of(plan, row) for row in rows)


@pytest.mark.process
def test_the_estimate_covers_what_a_search_writes(finished):
    """Of trials of 1,024 parameters, MLflow's store included."""
    from tuning.cli import resolve_plan
    from tuning.preflight import preflight

    plan = resolve_plan(str(finished[1] / "plan.json"), {})
    written = sum(path.stat().st_size for path in finished[1].rglob("*") if path.is_file())
    assert written < disk_space.needed_bytes(plan, preflight.check(plan)) < 100 * written
