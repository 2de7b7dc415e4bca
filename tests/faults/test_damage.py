"""Every file of a run's state is cut off, or has a byte changed; what is damaged is named, and the search goes on."""

import shutil
from pathlib import Path

import pytest

from analysis.results.rows import read_rows
from analysis.results.run_info import RunInfo
from trainables.training import checkpoint
from tuning.cli import main
from tuning.state.checkpoints import newest_checkpoint
from tuning.state.continuation import saved_plan
from tuning.state.record import Record
from tuning.tracking.outbox import REFUSED, Outbox, Target

STATE = ("plan.json", "facts.json", "record.jsonl", "rows.jsonl", "optuna.journal", "mlflow-outbox.jsonl",
         "mlflow-state.json", "rows.csv")  # fmt: skip
MADE_ANEW = ("facts.json", "evidence.json", "optuna.journal", "rows.csv", "mlflow-state.json", "report.md")
OLD = Path(__file__).parents[1] / "data" / "run-2026-11-27"
CHECKPOINT = ("session.json", "state.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json")


def changed(content: bytes, how: int) -> bytes:
    """Return content with a byte in its middle changed, or cut at an eighth of its length."""
    if how == 8:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return content[: len(content) * how // 8]


@pytest.mark.parametrize("how", range(9))
@pytest.mark.parametrize("name", ["plan.json", "record.jsonl"])
def test_the_plan_survives_in_one_of_two_places(copied, name, how):
    whole = saved_plan(Record(copied))
    path = copied / name
    path.write_bytes(changed(path.read_bytes(), how))
    record = Record(copied)
    assert saved_plan(record) == whole
    if name == "plan.json":
        assert [line for line in record.damage if str(path) in line]


def test_a_search_whose_plan_is_lost_in_both_places_is_refused(copied):
    for name in ("plan.json", "record.jsonl"):
        (copied / name).write_bytes(b"{")
    with pytest.raises(ValueError, match=r"neither record\.jsonl nor plan\.json"):
        saved_plan(Record(copied))


@pytest.mark.parametrize("how", range(9))
@pytest.mark.parametrize("name", CHECKPOINT)
def test_of_two_checkpoints_a_damaged_one_is_passed_over(tmp_path, name, how):
    folder = shutil.copytree(OLD, tmp_path / "old")  # of trials that have ended, newer runs keep the adapter alone
    row = next(row for row in read_rows(folder / "rows.jsonl") if row.status == "finished")
    plan = saved_plan(Record(folder))
    last = newest_checkpoint(plan, row.experiment_name) / "session"
    steps = checkpoint.progress_of(last).step
    (last / name).write_bytes(changed((last / name).read_bytes(), how))
    assert checkpoint.progress_of(last) is None
    before = newest_checkpoint(plan, row.experiment_name)
    assert before not in {None, last.parent}
    assert checkpoint.progress_of(before / "session").step < steps


@pytest.mark.parametrize("how", range(9))
@pytest.mark.parametrize("name", MADE_ANEW)
def test_what_is_made_anew_is_not_needed_to_know_that_a_search_is_complete(copied, name, how, capsys):
    path = copied / name
    path.write_bytes(changed(path.read_bytes(), how))
    assert main(["--resume", "first", "--runs-dir", str(copied.parent)]) == 0
    captured = capsys.readouterr()
    assert "first is complete" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize("how", range(8))
@pytest.mark.parametrize("name", ["facts.json", "evidence.json"])
def test_a_report_made_anew_names_a_file_that_was_cut_off(copied, name, how):
    path = copied / name
    path.write_bytes(changed(path.read_bytes(), how))
    with pytest.raises(ValueError, match=f"{path}: cannot be read"):
        RunInfo.of_run(copied, "now")


@pytest.mark.parametrize("how", range(9))
def test_of_what_mlflow_refused_the_lines_that_are_whole_are_kept(tmp_path, how, capsys):
    outbox = Outbox(tmp_path, Target("http://there", None, "abc"))
    rest = {"name": "naïve", "params": {}, "tags": {}, "time_ms": 1}
    events = [{"kind": "start", "run": f"t{number}", **rest} for number in range(5)]
    for event in events:
        outbox.refuse(event, "too long")
    capsys.readouterr()
    path = tmp_path / REFUSED
    damaged = changed(path.read_bytes(), how)
    path.write_bytes(damaged)
    kept = [*events[:2], *events[3:]] if how == 8 else events[: damaged.count(b"\n")]
    assert outbox.refused() == kept
    torn = bool(damaged) and (how == 8 or not damaged.endswith(b"\n"))
    assert (f"{path}: line {3 if how == 8 else len(kept) + 1}: " in capsys.readouterr().err) is torn


def test_a_search_goes_on_with_all_of_its_state_damaged(simulated, killed, told, tmp_path):
    """Killed half-way; then the last eighth of every file is cut off, and Ray's own files are gone to pieces."""
    flags = ("--num-samples", 6, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0)
    folder, again = tmp_path / "torn", ("--resume", "torn", "--runs-dir", tmp_path)
    killed(
        lambda harvest: len(harvest.record.rows) == 3,
        *flags, "--max-concurrent-trials", 1, "--runs-dir", tmp_path, "--name", "torn",
    )  # fmt: skip
    rows = folder / "rows.jsonl"
    kept = rows.read_bytes().split(b"\n")[:2]
    for path in folder.iterdir():
        if path.name in STATE:
            path.write_bytes(changed(path.read_bytes(), 7))
    for name in ("experiment_state-1.json", "searcher-state-1.pkl"):
        (folder / "ray" / "search-1" / name).write_bytes(b"{")
    status, _, errors = told(*again)
    assert status == 0, errors
    for name in ("plan.json", "record.jsonl", "rows.jsonl"):
        assert f"torn/{name}" in errors
    assert "Traceback" not in errors
    assert rows.read_bytes().split(b"\n")[:2] == kept
    searched = [row for row in Record(folder).rows.values() if row.phase == "search"]
    assert sorted(row.trial_id for row in searched) == [f"t00{number}" for number in range(1, 7)]
    assert "**Total Experiments:** 6" in (folder / "report.md").read_text()
    assert {row.trial_id for row in read_rows(folder / "rows.csv")} == {row.trial_id for row in searched}
    assert len(RunInfo.of_run(folder, "now").continued) == 1
    (stored,) = simulated.values()
    assert not [name for name, run in stored.items() if run.status == "RUNNING"]
    before = _files(folder)
    status, out, errors = told(*again)
    assert (status, errors) == (0, "")
    assert "is complete" in out
    assert _files(folder) == before


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.search
@pytest.mark.thorough
def test_no_snapshot_of_rays_is_read(fake_hosts, small, told, tmp_path):
    flags = ("--num-samples", 2, "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", 0)
    assert told(*small, *flags, "--runs-dir", tmp_path, "--name", "snapshots")[0] == 0
    snapshots = [path for path in (tmp_path / "snapshots" / "ray" / "search-1").iterdir() if path.is_file()]
    assert any(path.name.startswith("experiment_state") for path in snapshots)
    for path in snapshots:
        path.write_bytes(changed(path.read_bytes(), 4))
    status, _, errors = told("--resume", "snapshots", "--extend", 2, "--runs-dir", tmp_path)
    assert (status, errors) == (0, "")
    assert len(read_rows(tmp_path / "snapshots" / "rows.jsonl")) == 4
