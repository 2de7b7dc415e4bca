"""What a search prints may go nowhere: it goes on all the same."""

import io
import logging
import os
import sys

import pytest

from analysis.results.rows import read_rows
from tuning import train
from tuning.cli import main
from tuning.lifecycle.output import unbreakable

FLAGS = ("--num-samples", "3", "--strategies", "baseline")


@pytest.fixture
def broken(monkeypatch):
    """A function that gives this process a standard stream whose reader has left."""

    def leave(name):
        reader, writer = os.pipe()
        os.close(reader)
        stream = open(writer, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        opened.append(stream)
        monkeypatch.setattr(sys, name, stream)

    opened = []
    yield leave
    for stream in opened:
        stream.close()


def test_a_reader_who_leaves_ends_no_search_and_the_log_says_so(simulated, small, tmp_path, capsys, broken):
    broken("stdout")
    assert main([*small, *FLAGS, "--runs-dir", str(tmp_path), "--name", "unread"]) == 0
    said = "standard output cannot be written (Broken pipe); the search goes on without it"
    assert capsys.readouterr().err == f"{said}\n"
    assert (tmp_path / "unread" / "search.log").read_text().count(f"WARNING tuning.lifecycle.output: {said}") == 1
    assert len(read_rows(tmp_path / "unread" / "rows.jsonl")) == 3
    (stored,) = simulated.values()
    assert {run.status for run in stored.values()} == {"FINISHED"}
    assert {run.tags.get("outcome") for run in stored.values()} >= {"finished", "stopped"}, "the scheduler stops some"


def test_nor_does_one_who_leaves_both_streams(simulated, small, tmp_path, broken):
    broken("stdout")
    broken("stderr")
    assert main([*small, *FLAGS, "--runs-dir", str(tmp_path), "--name", "unread"]) == 0
    assert "standard error cannot be written" in (tmp_path / "unread" / "search.log").read_text()


def test_a_full_disk_under_standard_output_is_none_under_the_run(simulated, small, tmp_path, capsys, monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([*small, *FLAGS, "--runs-dir", str(tmp_path), "--name", "full"]) == 0
    said = "standard output cannot be written (No space left on device); the search goes on without it\n"
    assert capsys.readouterr().err == said


def test_a_reader_who_leaves_ends_no_training_either(monkeypatch, capsys, broken):
    broken("stdout")

    def trained(*_):
        for step in range(3):
            train._told({"step": step, "train_loss": 4.0})
        return 6

    monkeypatch.setattr(train, "run_command", trained)
    assert train.main(["RUN"]) == 6
    said = "standard output cannot be written (Broken pipe); the training goes on without it\n"
    assert capsys.readouterr().err == said


def test_a_sign_that_a_stream_has_no_code_for_is_written_out(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with unbreakable():
        print("runs/Prüfung …")
    assert stream.buffer.getvalue() == b"runs/Pr\\xfcfung \\u2026\n"


def test_a_process_without_standard_streams_prints_nothing(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with caplog.at_level(logging.WARNING), unbreakable():
        print("nobody")
    assert caplog.records == []
