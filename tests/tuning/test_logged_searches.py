"""What whole searches say in ``search.log``, and with ``--verbose``."""

import json
import logging
import os
import re
import signal
import time

import pytest

from analysis.results.rows import read_rows
from tests.fakes import ray_tune
from tuning.cli import main
from tuning.results import finalize
from tuning.state.record import Record

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) (tuning|analysis)\.[\w.]+: .*")
FLAGS = ("--num-samples", "4", "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", "1",
         "--max-concurrent-trials", "1")  # fmt: skip
log = logging.getLogger("tuning.here")


def read(folder):
    return (folder / "search.log").read_text()


def messages(folder):
    return [line.split(": ", 1)[1] for line in read(folder).splitlines()]


@pytest.fixture
def searched(simulated, small, tmp_path, capsys):
    """A function that searches, with more flags, and returns status, what was printed, and the run folder."""

    def run(name, *flags):
        capsys.readouterr()
        status = main([*small, *FLAGS, "--runs-dir", str(tmp_path), "--name", name, *flags])
        return status, *capsys.readouterr(), tmp_path / name

    return run


def test_a_search_says_in_its_log_what_it_does(searched):
    status, _, errors, folder = searched("first")
    assert (status, errors) == (0, "")
    assert all(LINE.fullmatch(line) for line in read(folder).splitlines())
    said = messages(folder)
    rows = read_rows(folder / "rows.jsonl")
    assert {row.phase for row in rows} == {"search", "confirm"}
    for row in rows:
        begun = next(n for n, line in enumerate(said) if line.startswith(f"{row.experiment_name} began: "))
        ended = [n for n, line in enumerate(said) if line.startswith(f"{row.experiment_name} {row.status}: ")]
        assert [begun] < ended
        assert f"loss {row.final_eval_loss:.4f}" in said[ended[0]]
    facts = json.loads((folder / "facts.json").read_text())
    plan = next(line for line in said if line.startswith(f"search {facts['search_id']}, plan: "))
    assert '"num_samples":4' in plan
    assert any(facts["versions"]["ray"] in line for line in said if line.startswith("versions: "))
    for stage, seconds in facts["seconds"].items():
        taken = [line for line in said if line.startswith(f"{stage} took ")]
        assert len(taken) == {"checks": 2, "report": 0}.get(stage, 1), stage
        assert seconds >= 0
    assert said[-1].startswith("ended with status 0; ")


def test_verbose_shows_the_lines_of_the_file_on_standard_error_and_changes_nothing_else(searched):
    _, plain, _, _ = searched("quiet")
    status, out, errors, folder = searched("loud", "--verbose")
    assert status == 0
    assert errors == read(folder)
    assert len(errors.splitlines()) > 20
    left = re.compile(r"about [\d:]+ left")
    assert left.sub("", out).replace("loud", "quiet") == left.sub("", plain)
    assert "verbose" not in json.loads((folder / "plan.json").read_text())


def test_a_search_that_goes_on_adds_to_its_log_and_to_its_seconds(searched, tmp_path):
    _, _, _, folder = searched("first")
    before, facts = read(folder), json.loads((folder / "facts.json").read_text())
    noted = {"trials": 1000.0, "report": 500.0}
    (folder / "facts.json").write_text(json.dumps({**facts, "seconds": noted}))
    assert main(["--resume", "first", "--runs-dir", str(tmp_path)]) == 0
    assert read(folder) == before, "it is complete"
    assert main(["--resume", "first", "--extend", "2", "--runs-dir", str(tmp_path)]) == 0
    assert read(folder).startswith(before)
    assert read(folder).count(" plan: ") == 2
    seconds = json.loads((folder / "facts.json").read_text())["seconds"]
    for stage, earlier in noted.items():
        assert earlier < seconds[stage] < earlier + 60
    assert 0 < seconds["checks"] < 60
    (line,) = [line for line in (folder / "report.md").read_text().splitlines() if "Wall time" in line]
    assert "trials 1,000." in line
    assert "report 5" not in line


def test_a_search_whose_log_cannot_be_written_ends_as_ever(searched, tmp_path, capsys):
    _, _, _, folder = searched("first")
    (folder / "search.log").unlink()
    (folder / "search.log").mkdir()
    assert main(["--resume", "first", "--extend", "2", "--runs-dir", str(tmp_path)]) == 0
    said = f"{folder / 'search.log'}: Is a directory; the search goes on without its log\n"
    assert capsys.readouterr().err == said
    assert len(Record(folder).of_phase("search")) == 6


def test_a_search_that_is_refused_leaves_no_log(refused, small, tmp_path):
    refused(*small, "--runs-dir", tmp_path / "runs", "--max-length", "100")
    assert not (tmp_path / "runs").exists()


def test_a_search_that_is_refused_is_still_one_line_below_what_verbose_shows(small, tmp_path, capsys):
    assert main([*small, "--runs-dir", str(tmp_path), "--max-length", "100", "--verbose"]) == 2
    *shown, last = capsys.readouterr().err.splitlines()
    assert shown
    assert all(LINE.fullmatch(line) for line in shown)
    assert last == "Error: --max-length 100: give at most 64, which is the model's context"


@pytest.mark.parametrize("stopped", [False, True])
def test_the_seconds_that_stay_are_those_after_mlflow_was_waited_for(searched, monkeypatch, stopped):
    close = finalize.close_tracking

    def slowly(run, in_time=True):
        time.sleep(0.5)
        close(run, in_time)

    monkeypatch.setattr(finalize, "close_tracking", slowly)
    if stopped:
        ray_tune.at(monkeypatch, lambda harvest: harvest.record.reports, lambda: os.kill(os.getpid(), signal.SIGTERM))
    status, _, _, folder = searched("slow")
    assert status == (143 if stopped else 0)
    assert json.loads((folder / "facts.json").read_text())["seconds"]["report"] > 0.5
    assert ("stopped: signal 15" in messages(folder)) is stopped


def test_a_mistake_of_ours_is_in_the_log_with_its_traceback(searched, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("ours")

    monkeypatch.setattr("tuning.results.finalize.write_rows", fail)
    with pytest.raises(KeyError):
        searched("first")
    text = read(tmp_path / "first")
    assert "ERROR tuning.stages: the search ends by an error\nTraceback" in text
    assert "KeyError: 'ours'\n" in text
