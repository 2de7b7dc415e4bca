"""A real MLflow server that is down, slow, failing, frozen, killed or forgetful; the search must not notice."""

import json
import signal
import time

import pytest

from tuning.tracking.outbox import lock

pytestmark = pytest.mark.server


def _slowly(path):
    time.sleep(5)


FAULTS = {"slow": _slowly, "500": lambda path: 500, "401": lambda path: 401}


@pytest.mark.parametrize(
    ("fault", "when"),
    [
        ("down", "start"), ("down", "middle"), ("down", "end"), ("slow", "middle"), ("slow", "end"),
        ("500", "start"), ("500", "middle"), ("401", "middle"), ("401", "end"),
    ],
)  # fmt: skip
def test_what_a_failing_server_missed_is_replayed(fault, when, search, proxy, server, healthy, capsys, stored):
    def fail():
        if fault == "down":
            proxy.down()
        else:
            proxy.fault = FAULTS[fault]

    if when == "start":
        fail()
    began = time.monotonic()
    search.begin()
    search.trials(0, 1)
    assert time.monotonic() - began < 1
    if when == "start":
        time.sleep(1)
        proxy.up()
    else:
        search.arrived()
    if when == "middle":
        fail()
    search.trials(2, 3)
    search.end()
    if when == "middle":
        time.sleep(1)
        proxy.up()
    if when == "end":
        fail()
    took = search.close()
    assert when != "end" or took < 6
    proxy.up()
    search.replay()
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)
    assert capsys.readouterr().err.count("cannot be reached") <= 1


def test_a_server_that_is_killed_and_comes_back_has_everything(search, proxy, server, healthy, capsys, stored, command):
    search.begin()
    search.trials(0)
    search.arrived()
    search.trials(1)
    server.send(signal.SIGKILL)
    search.trials(2, 3)
    search.end()
    assert search.close() < 6
    assert capsys.readouterr().err.count("cannot be reached") == 1
    away = command(search.run_dir)
    assert (away.returncode, len(away.stderr.splitlines())) == (1, 1), away.stderr
    assert away.stdout == f"Sending to {proxy.uri}\n"
    assert "replay again" in away.stderr
    server.start()
    back = command(search.run_dir)
    assert (back.returncode, back.stderr) == (0, "")
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)
    assert command(search.run_dir).stdout == f"Sending to {proxy.uri}\n0 events carried\n"


def test_a_frozen_server_holds_nobody_up_and_has_everything_once_it_goes_on(
    search, proxy, server, healthy, monkeypatch, stored
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    search.begin()
    search.arrived()
    server.send(signal.SIGSTOP)
    search.trials(0, 1)
    time.sleep(6)  # the first trial's run was asked for, its answer given up, and asked for again
    server.send(signal.SIGCONT)
    search.trials(2)
    search.arrived()
    server.send(signal.SIGSTOP)
    search.trials(3)
    search.end()
    assert search.close() < 6
    server.send(signal.SIGCONT)
    search.replay()
    assert stored(server.uri, search.id) == healthy(search.run_dir, search.id)


def test_a_server_that_is_away_costs_no_computing(search, proxy):
    proxy.down()
    search.begin()
    time.sleep(1.5)
    before = time.process_time()
    time.sleep(3)
    assert time.process_time() - before < 0.3
    search.close()


def test_one_replay_at_a_time_and_none_while_the_search_carries(search, proxy, command):
    search.begin()
    search.arrived()
    search.close()
    search.sink.thread.join(30)
    with lock(search.run_dir):
        second = command(search.run_dir)
    assert (second.returncode, second.stdout, len(second.stderr.splitlines())) == (2, "", 1)
    assert "another replay" in second.stderr


def test_a_whole_search_with_a_frozen_server_ends_as_it_would_have(tune, server, tmp_path, healthy, stored, command):
    server.send(signal.SIGSTOP)
    flags = ("--num-samples", 2, "--strategies", "baseline", "--strategies", "linear_decay")
    where = ("--mlflow-uri", server.uri, "--runs-dir", tmp_path, "--name", "whole")
    done = tune(*flags, *where, "--max-concurrent-trials", 1)
    ended = time.time()
    server.send(signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert "once it is back: python -m tuning.tracking replay" in done.stderr
    run_dir = tmp_path / "whole"
    assert ended - (run_dir / "report.html").stat().st_mtime < 15  # not the half minute that a request may take
    assert command(run_dir).returncode == 0
    search = json.loads((run_dir / "facts.json").read_text())["search_id"]
    runs = stored(server.uri, search)
    assert runs == healthy(run_dir, search)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert len(runs) == 3
