import os

import psutil
import pytest

from trainables.actors.liveness import lives


def test_a_process_lives_until_it_ends_or_another_has_its_number(monkeypatch):
    process = psutil.Process()
    assert lives(process)
    monkeypatch.setattr(process, "_ident", (process.pid, 0.0))  # of a process that began at another time
    assert not lives(process)


@pytest.mark.parametrize("error", [psutil.AccessDenied(os.getpid()), OSError(24, "Too many open files")])
def test_a_process_that_cannot_be_looked_at_is_not_said_to_have_ended(error, monkeypatch):
    process = psutil.Process()

    def status():
        raise error

    monkeypatch.setattr(process, "status", status)
    assert lives(process)
