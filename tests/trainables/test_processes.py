import os

import psutil
import pytest

from trainables.actors.host import lives


def test_a_process_lives_until_it_ends_or_another_has_its_number(monkeypatch):
    own = psutil.Process()
    assert lives(own)
    monkeypatch.setattr(own, "_ident", (own.pid, 0.0))  # of a process that began at another time
    assert not lives(own)


@pytest.mark.parametrize("error", [psutil.AccessDenied(os.getpid()), OSError(24, "Too many open files")])
def test_a_process_that_cannot_be_looked_at_is_not_said_to_have_ended(error, monkeypatch):
    own = psutil.Process()

    def status():
        raise error

    monkeypatch.setattr(own, "status", status)
    assert lives(own)
