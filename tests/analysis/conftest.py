"""The command that makes a report, run in this process."""

import subprocess
import sys

import pytest


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs ``python -m analysis`` with arguments, and returns its status and what it printed."""
    from analysis.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["analysis", *map(str, arguments)])
        status = main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, captured.out, captured.err)

    return run
