"""Whose fault it is that MLflow lacks something: its own, or the disk's."""

import sys
import threading

import pytest

from tuning.tracking import events
from tuning.tracking.__main__ import command
from tuning.tracking.outbox import LOCK, REFUSED, STATE, Outbox, Target, lock
from tuning.tracking.uploader import Sink, attempt

EVENT = {"kind": "start", "run": "t1", "name": "t1", "params": {}, "tags": {}, "time_ms": 1}


class Willing:
    """A carrier that takes what it is given, or refuses it for good."""

    def __init__(self, reason=None, error=None):
        self.reason, self.error = reason, error

    def apply(self, event):
        if self.reason or self.error:
            raise self.error or ValueError

    def refusal(self, error):
        return self.reason

    def reconcile(self):
        pass


def _outbox(folder):
    outbox = Outbox(folder, Target("sqlite:////there/mlflow.db", None, "abc"))
    outbox.append(EVENT)
    return outbox


def _harm(folder, name):
    """Make a file of the outbox one that cannot be written."""
    path = folder / name
    path.unlink(missing_ok=True)
    path.mkdir()
    return path


@pytest.mark.parametrize(("name", "reason"), [(f"{STATE}.partial", None), (REFUSED, "too long"), (LOCK, None)])
def test_what_the_disk_does_is_not_blamed_on_mlflow(tmp_path, capsys, name, reason):
    outbox = _outbox(tmp_path)
    path = _harm(tmp_path, name)
    sink = Sink(outbox, lambda: Willing(reason))
    sink.close(most_seconds=5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ")
    assert "Is a directory" in line
    assert "MLflow" not in line


@pytest.mark.parametrize("where", ["connect", "apply"])
def test_what_mlflow_does_is_not_blamed_on_the_disk(tmp_path, capsys, where):
    """Also where it raises what a disk would."""
    refused = ConnectionRefusedError(111, "Connection refused")

    def connect():
        if where == "connect":
            raise refused
        return Willing(error=refused)

    assert not Sink(_outbox(tmp_path), connect).close(most_seconds=5)
    (line,) = capsys.readouterr().err.splitlines()
    told = "cannot be reached (ConnectionRefusedError: [Errno 111] Connection refused)"
    assert line == f"MLflow at sqlite:////there/mlflow.db {told}; the search goes on"


def test_a_replay_that_fails_says_of_whom(tmp_path, monkeypatch, capsys):
    _outbox(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tracking", "replay", str(tmp_path), "--to", "sqlite:////there/mlflow.db"])
    monkeypatch.setattr(events, "MlflowCarrier", lambda target: Willing(error=ConnectionRefusedError(111, "no")))
    assert command() == 1
    _harm(tmp_path, f"{STATE}.partial")
    monkeypatch.setattr(events, "MlflowCarrier", lambda target: Willing())
    assert command() == 1
    of_mlflow, of_the_disk = capsys.readouterr().err.splitlines()
    assert "Error: MLflow cannot be reached (ConnectionRefusedError: [Errno 111] no); nothing is lost" in of_mlflow
    assert f"Error: {tmp_path / STATE}.partial: Is a directory; nothing is lost" in of_the_disk


def test_a_search_that_has_said_its_last_hears_no_more_of_mlflow(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tuning.tracking.uploader.LAST_ATTEMPTS", 1)
    asked, over = threading.Event(), threading.Event()

    class Late(Willing):
        def apply(self, event):
            asked.set()
            over.wait(60)
            raise ConnectionRefusedError

    sink = Sink(_outbox(tmp_path), Late)
    sink.wake.set()
    assert asked.wait(60)
    assert not sink.close(most_seconds=0)
    over.set()
    sink.thread.join(60)
    assert capsys.readouterr().err == ""


def test_an_outbox_with_another_server_leaves_its_state_to_who_carries_it(tmp_path, monkeypatch):
    """Such as the thread of a search that failed in this process, which may be about to note how far it is."""
    _outbox(tmp_path)
    there = (tmp_path / STATE).read_bytes()
    with lock(tmp_path):
        other = Outbox(tmp_path, Target("http://other", None, "abc"))
        assert (tmp_path / STATE).read_bytes() == there
    assert (other.done_bytes, Outbox(tmp_path).target.uri) == (0, "http://other")
    assert (tmp_path / STATE).read_bytes() != there


@pytest.mark.parametrize("path", ["figures/a\0b", "x" * 5000, "\ud800", "a/" * 3000])
def test_what_can_be_no_path_is_refused_for_good_and_holds_up_nobody(tmp_path, path):
    reason = attempt(_outbox(tmp_path), Willing(), {"kind": "artifact", "run": "r", "path": path})
    assert reason.endswith("cannot be a path")
