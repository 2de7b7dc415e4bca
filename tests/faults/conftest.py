"""Searches that tests kill: in a process tree of their own, or in this process; and one that was left in order."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.fakes import mlflow, ray_tune
from tests.fakes.trial import STEP_SECONDS
from tuning.cli import main

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 240


class Tree:
    """Starts ``python tune.py``, whose trials train nothing, as a session of its own, and ends all of it.

    Args:
        folder: Home and runs are in it.
        temporary: For temporary files; short, since the dashboard's sockets lie in it.
        small: Flags of a small search.
        wait_for: Waits until something is so.

    Attributes:
        script: What is started; ``tune.py`` has trials train.
        step_seconds: How long an optimizer step of a trial that trains nothing takes.
    """

    script, step_seconds = "tests/fakes/tune.py", 0.0

    def __init__(self, folder: Path, temporary: str, small: list[str], wait_for: Callable[..., None]) -> None:
        self.folder, self.temporary, self.small, self.wait_for = folder, temporary, small, wait_for
        self.runs = folder / "runs"
        self.begun: list[psutil.Popen] = []
        self.left: list[psutil.Process] = []
        (folder / "home").mkdir(exist_ok=True)

    def start(self, *flags: object, **environment: str) -> psutil.Popen:
        """Start a search."""
        defaults = {"HOME": str(self.folder / "home"), "TMPDIR": self.temporary, "RAY_TMPDIR": "/tmp",
                    STEP_SECONDS: str(self.step_seconds)}  # fmt: skip
        number = len(self.begun)
        # files: Ray's agents keep what they inherit for a minute after a kill, and a pipe would end only then
        with (self.folder / f"{number}.out").open("w") as out, (self.folder / f"{number}.err").open("w") as errors:
            process = psutil.Popen(
                [sys.executable, self.script, *map(str, flags), "--runs-dir", str(self.runs)], cwd=ROOT,
                stdout=out, stderr=errors, start_new_session=True, env={**os.environ, **defaults, **environment},
            )  # fmt: skip
        self.begun.append(process)
        return process

    def new(self, name: str, *flags: object, **environment: str) -> psutil.Popen:
        """Start a new search on the small model."""
        return self.start(*self.small, "--name", name, *flags, **environment)

    def done(self, process: psutil.Popen) -> tuple[int, str, str]:
        """Wait for a search and return its exit status and what it printed."""
        status = process.wait(timeout=TIMEOUT_SECONDS)
        return status, *self.printed(process)

    def printed(self, process: psutil.Popen) -> tuple[str, str]:
        """Return what a search has printed so far, on standard output and on standard error."""
        number = self.begun.index(process)
        out, errors = ((self.folder / f"{number}.{end}").read_text() for end in ("out", "err"))
        return out, errors

    def kill(self, process: psutil.Popen) -> None:
        """Kill a search's driver, as the kernel or a preempted machine would; what trains must end by itself."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()  # it is killed where it is now, however long it takes to look at what it has started
        tree = _descendants(process)
        self.left += tree
        process.kill()
        process.wait(timeout=TIMEOUT_SECONDS)
        self.assert_ended(tree)

    @staticmethod
    def assert_ended(processes: list[psutil.Process]) -> None:
        """Wait for what trains to end within a minute, and for workers without work, who notice it later, within three.

        Ray's agents are left aside: they notice a minute or two later that their node is gone.
        """
        workers = [process for process in processes if not _is_agent(process)]
        idle = [process for process in workers if _title(process).startswith("ray::IDLE")]
        for those, seconds in (([process for process in workers if process not in idle], 60), (idle, 180)):
            _, alive = psutil.wait_procs(those, timeout=seconds)
            assert not alive, [_title(process) for process in alive]

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self.begun:
            self.left += _descendants(process)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for child in self.left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "".join(process.cmdline())
    return ""


def _is_agent(process: psutil.Process) -> bool:
    try:
        return "agent" in _title(process).lower() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _descendants(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def tree(tmp_path, small, wait_for, empty_mlflow):
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as temporary:
        tree = Tree(tmp_path, temporary, small, wait_for)
        tree.runs.mkdir(exist_ok=True)
        shutil.copy(empty_mlflow, tree.runs / "mlflow.db")
        yield tree
        tree.end()


FLAGS = ("--num-samples", "8", "--strategies", "baseline", "--strategies", "linear_decay", "--strategies", "empirical",
         "--strategies", "attention_heavy", "--max-concurrent-trials", "1", "--confirm-seeds", "0")  # fmt: skip


@pytest.fixture(scope="session")
def left(small, tmp_path_factory):
    """The folder of a search of eight trials that trained nothing."""
    runs = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        ray_tune.install(patch)
        mlflow.install(patch)
        assert main([*small, *FLAGS, "--runs-dir", str(runs), "--name", "first"]) == 0
    return runs / "first"


@pytest.fixture
def copied(left, tmp_path):
    """A finished search in a runs folder of its own."""
    return shutil.copytree(left, tmp_path / "runs" / "first")


@pytest.fixture
def killed(simulated, small, monkeypatch):
    """A function that begins a search, or takes one up, and kills it once something is so of what has been noted."""

    def begin(moment, *flags):
        new = [] if "--resume" in flags else small
        with monkeypatch.context() as patch:
            ray_tune.kill_at(patch, moment)
            with pytest.raises(ray_tune.Killed):
                main([*map(str, (*new, *flags))])
        mlflow.cut_off()

    return begin


@pytest.fixture
def told(capsys):
    """A function that runs the command in this process and returns its status and what it printed."""

    def run(*flags):
        capsys.readouterr()
        status = main([*map(str, flags)])
        return status, *capsys.readouterr()

    return run
