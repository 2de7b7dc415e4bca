"""Why a search stops by itself: what ends Ray's loop is told apart."""

import errno
import os
import subprocess
import sys
import traceback

import pytest
from ray.exceptions import ActorDiedError, RaySystemError, RayTaskError
from ray.tune.error import TuneError

from tuning.cluster import connection
from tuning.lifecycle.stop import FULL, Stop, cause_of
from tuning.plan.search_plan import SearchPlan

ERROR = OSError(FULL[0], "No space left on device")
IN_A_TRIAL = RayTaskError("Trainable.train", f"Traceback\nOSError: {ERROR}", ERROR)


def as_ray_tune_does(error):
    """Return what Ray Tune makes of what its loop meets."""
    try:
        try:
            raise error
        except Exception:
            raise TuneError(traceback.format_exc())  # noqa: B904 (so does Ray)
    except TuneError as caught:
        return caught


def come_upon(first, then):
    """Return an error that was raised while another was handled."""
    try:
        try:
            raise first
        except OSError:
            raise then  # noqa: B904
    except KeyError as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "shortage", "failure"),
    [
        (OSError(FULL[0], "No space left on device", "/a/b"), "/a/b: No space left on device: no room left", None),
        (OSError(FULL[1], os.strerror(FULL[1])), f": {os.strerror(FULL[1])}: no room left", None),
        (OSError(errno.EIO, "Input/output error", "/a/b"), None, "/a/b: Input/output error"),
        (OSError(errno.ESTALE, "Stale file handle"), None, ": Stale file handle"),
        (RaySystemError("no\nmore"), None, "Ray cannot go on (RaySystemError: System error: no)"),
        (IN_A_TRIAL, ": no room left", None),
        (OSError("AF_UNIX path too long"), None, ": AF_UNIX path too long"),
        (RayTaskError("Host.measure", "Traceback", ActorDiedError()), None, "Ray cannot go on (RayTaskError: "),
    ],
)
@pytest.mark.parametrize("wrapped", [as_ray_tune_does, lambda error: error])
def test_what_ends_rays_loop_is_a_full_disk_or_named(tmp_path, error, shortage, failure, wrapped):
    stop = Stop(tmp_path, 0)
    assert stop.because_of(wrapped(error))
    for expected, actual in ((shortage, stop.shortage), (failure, stop.failure)):
        assert (expected is None) == (actual is None)
        assert expected is None or expected in actual


def test_a_mistake_of_ours_is_not_blamed_on_ray(tmp_path):
    stop = Stop(tmp_path, 0)
    assert not stop.because_of(as_ray_tune_does(KeyError("ours")))
    assert not stop.because_of(as_ray_tune_does(come_upon(FileNotFoundError("no such file"), KeyError("ours"))))
    assert not stop.because_of(RayTaskError("Host.measure", "Traceback", KeyError("ours")))
    assert not stop.stop_all()
    assert stop.because_of(TuneError("Ray's own"))


def test_a_ray_that_does_not_start_is_told_with_the_limit_that_it_met(monkeypatch, tmp_path):
    started = []

    def init(**_):
        started.append(None)
        raise Exception("The current node\ntimed out.")  # as Ray does

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection.resource, "getrlimit", lambda _: (6 * 2**30, 6 * 2**30))
    with pytest.raises(connection.RayDidNotStart) as raised, connection.ray_for(SearchPlan()):
        pass
    told = cause_of(raised.value, "/a").text
    assert told.startswith("Ray cannot go on (RayDidNotStart: The current node timed out. It may use 6.0 GiB of addr")
    assert "ulimit -v unlimited" in told
    assert len(started) == 2, "it is tried once more"


@pytest.mark.process
def test_a_ray_that_starts_at_the_second_try_is_used_and_the_first_leaves_no_process(monkeypatch, tmp_path):
    started = []

    def init(**_):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"]))
        if len(started) == 1:
            raise Exception("The current node timed out during startup.")
        return "the context"

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(connection.ray, "init", init)
    assert connection._connect(SearchPlan(), "ours") == "the context"
    first, second = started
    assert first.wait(10) < 0
    assert second.poll() is None
    second.kill()
    second.wait()
