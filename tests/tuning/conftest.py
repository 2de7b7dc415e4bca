"""Real searches on a tiny model, shared by the tests that look at what they leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def refused(capsys):
    """Run the command in this process; it must end with status 2 and one line on standard error, which is returned."""
    from tuning.cli import main

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1, captured.err
        return captured.err

    return run


@pytest.fixture(scope="session")
def small(tiny_gpt2, tiny_text):
    """Flags that make a trial take a second."""
    return [
        "--model", str(tiny_gpt2), "--dataset", str(tiny_text), "--train-examples", "16", "--validation-examples", "8",
        "--test-examples", "8", "--max-length", "32", "--learning-rate", "0.01", "--confirm-seeds", "0",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def tune(small):
    """Run ``python tune.py`` as a user does."""

    def run(*flags, **environment):
        return subprocess.run(
            [sys.executable, "tune.py", *small, *map(str, flags)],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment},
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def four():
    """Flags that name four strategies."""
    names = ("baseline", "linear_decay", "attention_heavy", "empirical")
    return [word for name in names for word in ("--strategies", name)]


@pytest.fixture(scope="session")
def finished(tune, runs, four):
    """A search of eight trials, one at a time: (completed process, run folder)."""
    done = tune("--num-samples", 8, "--max-concurrent-trials", 1, "--runs-dir", runs, "--name", "first", *four)
    assert done.returncode == 0, done.stderr
    return done, runs / "first"
