"""What somebody else's run folder may hold: links that lead out of it, names that become paths."""

import os
import socket
import sys
from dataclasses import replace

import pytest

from analysis.__main__ import main
from analysis.results import journal
from analysis.results.atomic_write import replace_text, replacing_folder
from analysis.results.confinement import check_folder, check_name, leads_out
from analysis.results.rows import ResultRow, surviving_rows, write_rows

ROW = ResultRow("t001", "baseline_t001", "baseline", "finished", final_eval_loss=1.5)


@pytest.fixture
def run(tmp_path):
    """A run folder of which little is there, and beside it somebody's own file."""
    folder = tmp_path / "run"
    (folder / "figures").mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    write_rows([ROW], folder / "rows.jsonl")
    (tmp_path / "mine.txt").write_text("mine")
    return folder


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "-x", "a" * 201, "a\n", "a\0b", "a*", None, 5])
def test_what_could_be_more_than_one_folders_name_is_no_id(name):
    with pytest.raises(ValueError, match="id must be a name"):
        check_name("id", name)


@pytest.mark.parametrize("field", ["trial_id", "experiment_name"])
def test_a_row_whose_name_is_a_path_is_damaged(run, field):
    write_rows([replace(ROW, **{field: "../../../X"}), replace(ROW, trial_id="t002")], run / "rows.jsonl")
    rows, damage = surviving_rows(run / "rows.jsonl")
    assert [row.trial_id for row in rows] == ["t002"]
    assert damage == [(1, f"{field} must be a name of letters, digits, '.', '_', '+' and '-', got '../../../X'")]


@pytest.mark.parametrize("place", ["plan.json", "facts.json", "report.md", "report.html.partial", "figures/ranks.svg"])
def test_a_report_is_made_of_no_folder_that_a_link_leads_out_of(run, monkeypatch, capsys, place):
    (run / place).unlink(missing_ok=True)
    (run / place).symlink_to(run.parent / "mine.txt")
    monkeypatch.setattr(sys, "argv", ["analysis", str(run)])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"Error: {run / place}: a link that leads out of {run}; put there what it leads to"
    assert (run.parent / "mine.txt").read_text() == "mine"
    assert not (run / "report.html").exists()


def test_a_report_is_made_of_a_run_whose_trials_lie_on_another_disk_and_nothing_is_touched_there(run, monkeypatch):
    (run.parent / "disk").mkdir()
    (run / "ray").symlink_to(run.parent / "disk")
    monkeypatch.setattr(sys, "argv", ["analysis", str(run)])
    assert main() == 0
    assert [*(run.parent / "disk").iterdir()] == []


def test_a_folder_may_be_a_link_and_have_links_that_stay_in_it(run):
    (run / "also.json").symlink_to("plan.json")
    (run.parent / "link").symlink_to(run)
    check_folder(run.parent / "link")
    assert not leads_out(run.parent / "link" / "also.json", run)


def test_a_link_that_leads_to_itself_leads_nowhere_else(run):
    (run / "loop").symlink_to("loop")
    check_folder(run)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: _socket(path)])
def test_what_would_be_waited_for_is_refused(run, make, monkeypatch):
    monkeypatch.chdir(run)  # a socket's path must be short
    make("rows.csv")
    with pytest.raises(ValueError, match=r"rows\.csv: neither a file nor a folder"):
        check_folder(run)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


@pytest.mark.parametrize("place", ["report.md", "report.md.partial"])
def test_a_text_is_written_through_no_link(run, place):
    (run / place).symlink_to(run / "plan.json")
    replace_text(run / "report.md", "# Report")
    assert (run / "plan.json").read_text() == "{}"
    assert ((run / "report.md").read_text(), (run / "report.md").is_symlink()) == ("# Report", False)


@pytest.mark.parametrize("place", ["best", ".best.partial", ".best.old"])
def test_a_folder_is_made_through_no_link(run, place):
    (run.parent / "others").mkdir()
    (run.parent / "others" / "file").touch()
    (run / place).symlink_to(run.parent / "others")
    with replacing_folder(run / "best") as aside:
        (aside / "new").touch()
    assert [path.name for path in (run / "best").iterdir()] == ["new"]
    assert [path.name for path in (run.parent / "others").iterdir()] == ["file"]
    assert sorted(path.name for path in run.iterdir() if path.name.startswith("best")) == ["best"]


def test_rows_of_a_table_are_written_through_no_link(run):
    (run / "rows.csv").symlink_to(run / "rows.jsonl")
    write_rows([ROW], run / "rows.csv")
    assert journal.read(run / "rows.jsonl")[1] == []


def test_a_report_of_a_table_draws_through_no_link(run, monkeypatch, capsys):
    (run.parent / "elsewhere").mkdir()
    (run / "figures").rmdir()
    (run / "figures").symlink_to(run.parent / "elsewhere")
    write_rows([ROW, replace(ROW, trial_id="t002")], run / "rows.csv")
    output = run / "report.md"
    monkeypatch.setattr(sys, "argv", ["analysis", "--rows", str(run / "rows.csv"), "--output", str(output)])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {run / 'figures'}: a link; ")
    assert [*(run.parent / "elsewhere").iterdir()] == []
    assert not output.exists()
