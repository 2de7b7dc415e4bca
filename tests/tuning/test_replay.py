"""What ``replay`` sends, and where to: an outbox that somebody else may have written."""

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.results import journal
from tests.fakes import mlflow
from tests.fakes.outbox import QuietSink, outbox_without_mlflow
from tuning.tracking import events
from tuning.tracking.__main__ import command
from tuning.tracking.mlflow_client import MlflowCarrier
from tuning.tracking.outbox import OUTBOX, Outbox, Target, UnknownTarget
from tuning.tracking.uploader import deliver

ROOT = Path(__file__).parents[2]


def _replayed(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tracking", "replay", *map(str, arguments)])
    return command()


def test_a_replay_goes_to_no_address_that_only_a_file_of_the_run_says(run_dir, monkeypatch, capsys):
    outbox_without_mlflow(run_dir, ("http://127.0.0.1:9", None))
    monkeypatch.setattr(events, "MlflowCarrier", lambda target: pytest.fail("it is asked"))
    assert _replayed(monkeypatch, run_dir) == 2
    (line,) = capsys.readouterr().err.splitlines()
    here = f"this machine's searches log to sqlite:///{run_dir.parent}/mlflow.db"
    assert (
        line
        == f"Error: {run_dir}: its events are for http://127.0.0.1:9, and {here}; give --to URI, the one or the other"
    )


@pytest.mark.parametrize("said", ["by --to", "by the environment", "by the runs folder"])
def test_a_replay_goes_where_this_machine_says_and_says_so(run_dir, monkeypatch, capsys, said):
    runs = (f"sqlite:///{run_dir.parent}/mlflow.db", (run_dir.parent / "mlflow-artifacts").as_uri())
    place = runs if said == "by the runs folder" else ("http://127.0.0.1:9", None)
    outbox_without_mlflow(run_dir, place)
    carriers = []
    monkeypatch.setattr(events, "MlflowCarrier", lambda target: carriers.append(target) or mlflow.FakeCarrier(target))
    monkeypatch.setattr(mlflow.FakeCarrier, "stores", {})
    if said == "by the environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place[0])
    assert _replayed(monkeypatch, run_dir, *(["--to", place[0]] if said == "by --to" else [])) == 0
    assert carriers == [Target(*place, run_dir.name)]
    assert capsys.readouterr().out == f"Sending to {place[0]}\n6 events carried\n"


def _artifact(run_dir, path, kind="artifact"):
    sink = QuietSink(Outbox(run_dir, Target("sqlite:////there/mlflow.db", None, "abc")))
    sink.put(kind, "t1", path=str(path))
    return run_dir


@pytest.mark.parametrize("event", ["artifact", "table"])
@pytest.mark.parametrize("kind", ["a path", "a link", "a link in a folder", "two dots"])
def test_no_file_outside_the_run_is_sent(run_dir, tmp_path, monkeypatch, capsys, kind, event):
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    (run_dir / "trials").mkdir()
    path = {"a path": secret, "a link": run_dir / "link", "a link in a folder": run_dir / "trials",
            "two dots": run_dir / "trials" / ".." / ".." / "id_rsa"}[kind]  # fmt: skip
    outbox = Outbox(_artifact(run_dir, path, event))
    if kind.startswith("a link"):
        (run_dir / "link").symlink_to(secret)
        (run_dir / "trials" / "link").symlink_to(secret)
    carrier = _Eager()
    ((waiting, end),) = outbox.waiting()
    assert not deliver(outbox, carrier, waiting, end)
    assert carrier.heard == []
    assert f"{path} is not in {run_dir}, or a link in it leads out of there" in capsys.readouterr().err


def test_a_file_of_the_run_is_sent(run_dir):
    (run_dir / "report.md").write_text("# Report")
    outbox, carrier = Outbox(_artifact(run_dir, run_dir / "report.md")), _Eager()
    ((event, end),) = outbox.waiting()
    assert deliver(outbox, carrier, event, end)
    assert carrier.heard == ["artifact"]


class _Eager:
    def __init__(self):
        self.heard = []

    def apply(self, event):
        self.heard.append(event["kind"])


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "create", "run": "t1"},
        {"kind": "_init__", "run": "t1", "target": 1},
        {"kind": "id", "run": "t1"},
    ],
)
def test_no_method_is_called_by_a_name_that_comes_from_a_file(event):
    carrier = MlflowCarrier.__new__(MlflowCarrier)
    with pytest.raises(LookupError):
        carrier.apply(event)


@pytest.mark.parametrize(
    "changes",
    [{"run": "../x"}, {"run": "a' OR 'b"}, {"step": 10**30}, {"step": "1"}, {"values": None}, {"time_ms": True}],
)
def test_what_is_no_event_is_passed_over_and_named(run_dir, changes, capsys):
    outbox = Outbox(run_dir, Target("sqlite:////there/mlflow.db", None, "abc"))
    whole = {"kind": "metrics", "run": "t1", "values": {"a": 1.0}, "step": 1, "time_ms": 1}
    outbox.append(whole | changes)
    outbox.append(whole)
    assert [event for event, _ in outbox.waiting()] == [whole]
    assert "line 2: " in capsys.readouterr().err


def test_what_identifies_a_search_cannot_say_more_to_mlflow(run_dir):
    values = {"kind": "target", "run": "", "uri": "sqlite:////a.db", "artifacts": None, "search": "a' OR 'b' LIKE 'b"}
    journal.append(run_dir / OUTBOX, values)
    with pytest.raises(UnknownTarget):
        Outbox(run_dir)


def in_this_process(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tracking", "replay", folder])
    status = command()
    return status, *capsys.readouterr()


def in_its_own(folder, monkeypatch, capsys):
    done = subprocess.run(
        [sys.executable, "-m", "tuning.tracking", "replay", folder],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


OF_NO_TARGET = (lambda folder: (folder.mkdir(), (folder / OUTBOX).write_text("{}\n")), "says where MLflow is")


@pytest.mark.parametrize(
    ("make", "culprit", "run"),
    [
        (lambda folder: None, "no mlflow-outbox.jsonl", in_this_process),
        (lambda folder: folder.mkdir(), "no mlflow-outbox.jsonl", in_this_process),
        (*OF_NO_TARGET, in_this_process),
        pytest.param(*OF_NO_TARGET, in_its_own, marks=pytest.mark.process),
    ],
)
def test_a_replay_of_a_wrong_folder_is_one_line(make, culprit, run, tmp_path, monkeypatch, capsys):
    make(tmp_path / "wrong")
    status, printed, errors = run(str(tmp_path / "wrong"), monkeypatch, capsys)
    assert (status, printed) == (2, "")
    last = errors.splitlines()[-1]
    assert str(tmp_path / "wrong") in last
    assert culprit in last


def test_an_outbox_that_knows_no_server_says_so(run_dir):
    (run_dir / OUTBOX).touch()
    with pytest.raises(UnknownTarget, match="says where MLflow is"):
        Outbox(run_dir)
