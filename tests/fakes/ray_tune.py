"""Ray Tune's loop in this process, without Ray: a search takes a fraction of a second, and can be broken anywhere.

Everything of ours is real but what trains: the command, the plan's checks, searchers, schedulers, record, checkpoints,
MLflow's outbox, report. What Ray does between them is done here in the order in which Ray does it
(``ray.tune.execution.tune_controller``); ``tests/contract/test_fakes.py`` holds both against each other.
"""

import contextlib
import itertools
import shutil
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.error import TuneError
from ray.tune.logger import LoggerCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from safetensors import SafetensorError

from analysis.results.trial_config import TrialConfig
from tests.fakes.trial import (
    BASE_LOSSES,
    FakeSession,
    Rounds,
    bracket_of,
    continued_by,
    coverage_of,
    forms_of,
    measured_of,
    reloaded_of,
    shrink_curve_of,
)
from trainables.spec import TrialSpec, Workload
from trainables.training.checkpoint import LAST, SESSION
from trainables.training.session import next_report
from tuning.callbacks.trial_callback import Harvest

CPUS = 2


@dataclass
class Trial:
    """What callbacks, searchers and schedulers see of a trial, and the trial itself."""

    trial_id: str
    config: dict[str, Any]
    workload: Workload
    rounds: Rounds
    kept: str | None
    folder: Path = Path()
    last_result: dict[str, Any] | None = None
    error_file: str | None = None
    started: bool = False
    failures: int = 0
    checkpoints: int = 0
    run_metadata: SimpleNamespace = field(default_factory=SimpleNamespace)

    def __post_init__(self) -> None:
        self.begin(self.kept)

    def begin(self, kept: str | None) -> None:
        """Begin, or go on from a checkpoint."""
        self.session = FakeSession(self.workload, TrialSpec.from_config(TrialConfig.from_ray(self.config)), self.rounds)
        if kept is not None:
            self.session.load(Path(kept) / SESSION)

    def report(self) -> dict[str, Any]:
        """Train to the next report."""
        again, self.kept = self.kept is not None, None
        return next_report(self.session, again) | {"resource_events": "[]"}

    def save(self) -> None:
        """Write a checkpoint; the two newest stay."""
        self.session.save(self.folder / f"checkpoint_{self.checkpoints:06d}" / SESSION)
        self.checkpoints += 1
        for old in self._checkpoints()[:-2]:
            shutil.rmtree(old)

    def fail(self, told: str) -> None:
        """Write down how it failed, as Ray does, and go on from the last checkpoint."""
        self.failures += 1
        self.error_file = str(self.folder / "error.txt")
        self.folder.mkdir(parents=True, exist_ok=True)
        with Path(self.error_file).open("a+") as file:
            file.write(f"Failure # {self.failures} (occurred at 2026-01-01_00-00-00)\n{told}\n")
        self.begin(str(self._checkpoints()[-1]) if self._checkpoints() else None)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint_*"))


class Tuner:
    """Takes what ``ray.tune.Tuner`` takes of it, and trains one report of one trial after the other, in turns."""

    def __init__(self, trainable: Any, tune_config: Any, run_config: Any) -> None:
        cloudpickle.dumps(tune_config.search_alg)  # as Ray's does, into its snapshot
        (self.workload, self.checkpoints), self.tune, self.run = trainable, tune_config, run_config
        self.callbacks = [callback for callback in run_config.callbacks if not isinstance(callback, LoggerCallback)]
        self.rounds, self.live, self.every = Rounds(), deque[Trial](), list[Trial]()
        self.left = tune_config.num_samples
        running.append(self)

    def fit(self) -> None:
        """Train until there is nothing left, or the search is to stop."""
        try:
            while not self.run.stop.stop_all():
                self._fill()
                if not self.live:
                    break
                self._turn(self.live[0])
            self._tell("on_experiment_end", self.every)
        except Exception as error:  # so does Ray, whatever its loop meets
            raise TuneError(traceback.format_exc()) from error
        finally:
            running.remove(self)

    def _fill(self) -> None:
        while self.left and len(self.live) < self.tune.max_concurrent_trials:
            trial_id = str(len(self.every))
            config = self.tune.search_alg.suggest(trial_id)
            if config == Searcher.FINISHED:
                self.left = 0
                return
            self.left -= 1
            trial = Trial(trial_id, config, self.workload, self.rounds, self.checkpoints.get(config["trial_id"]))
            trial.folder = Path(self.run.storage_path) / self.run.name / self.tune.trial_dirname_creator(trial)
            self.live.append(trial)
            self.every.append(trial)
            self.tune.scheduler.on_trial_add(None, trial)

    def _turn(self, trial: Trial) -> None:
        """Have a trial make a report, decide about it, and keep the trial."""
        if not trial.started:
            self._tell("on_trial_start", [], trial)
            trial.started = True
        try:
            result = trial.report()
            self._decide(trial, result)
            trial.save()
        except (OSError, RuntimeError, SafetensorError) as error:
            self._failed(trial, error)
        else:
            self._complete(trial) if result["done"] else self.live.rotate(-1)

    def _decide(self, trial: Trial, result: dict[str, Any]) -> None:
        stop = self.run.stop(trial.trial_id, result) or result["done"]
        decision = TrialScheduler.STOP if stop else self.tune.scheduler.on_trial_result(None, trial, result)
        result["done"] = decision == TrialScheduler.STOP
        if not result["done"]:
            self.tune.search_alg.on_trial_result(trial.trial_id, result)
        self._tell("on_trial_result", [], trial, result)
        trial.last_result = result

    def _complete(self, trial: Trial) -> None:
        self.live.popleft()
        self.tune.scheduler.on_trial_complete(None, trial, trial.last_result)
        self.tune.search_alg.on_trial_complete(trial.trial_id, result=trial.last_result)
        self._tell("on_trial_complete", [], trial)

    def _failed(self, trial: Trial, error: Exception) -> None:
        trial.fail("".join(traceback.format_exception(error)))
        if trial.failures <= self.run.failure_config.max_failures:
            self._tell("on_trial_recover", [], trial)
            self.live.rotate(-1)
        else:
            self.live.popleft()
            self.tune.scheduler.on_trial_error(None, trial)
            self.tune.search_alg.on_trial_complete(trial.trial_id, error=True)
            self._tell("on_trial_error", [], trial)

    def _tell(self, event: str, *facts: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*([] if event == "on_experiment_end" else [0]), *facts)


running: list[Tuner] = []
"""The loop that runs now, if one does."""

RAY_TUNE = SimpleNamespace(
    Tuner=Tuner,
    TuneConfig=SimpleNamespace,
    RunConfig=SimpleNamespace,
    CheckpointConfig=SimpleNamespace,
    FailureConfig=SimpleNamespace,
    with_resources=lambda trainable, resources: trainable,
    with_parameters=lambda trainable, hosts, checkpoints: (hosts.workload, checkpoints),
)


@dataclass(frozen=True)
class NoHosts:
    """Hosts that are nowhere: what they are asked is answered at once."""

    workload: Workload

    def reloaded_here(self, workload: Workload, adapters: Any, examples: Any) -> list[Any]:
        return [reloaded_of(adapter) for adapter in adapters]

    def sharing(self, workload: Workload) -> "NoHosts":
        return NoHosts(workload)


@contextlib.contextmanager
def _no_ray(*_: Any) -> Iterator[str]:
    yield "127.0.0.1:8265"


@contextlib.contextmanager
def _no_hosts(plan: Any, workload: Workload) -> Iterator[NoHosts]:
    yield NoHosts(workload)


def _answer(plan: Any, hosts: NoHosts, what: str, *arguments: Any, stop: Any = None) -> Any:
    if stop is not None:
        stop.check()
    if what == "coverage":
        return coverage_of(hosts.workload)
    if what == "measure":
        return measured_of(hosts.workload, *arguments)
    if what == "learning_rates":
        return bracket_of(hosts.workload, *arguments)
    if what == "base_loss":
        return BASE_LOSSES[arguments[0]]
    return {"continued": continued_by, "hand_out": forms_of, "shrink_curve": shrink_curve_of}[what](*arguments)


def _run(plan: Any, function: Any, hosts: NoHosts, *arguments: Any, stop: Any = None) -> Any:
    return function(hosts, *arguments)


def _save_all(hosts: Any, folder: Path, most_seconds: float) -> None:
    for trial in itertools.chain.from_iterable(loop.live for loop in running):
        if trial.session.learner.step:
            trial.session.save(folder / trial.folder.name / LAST / SESSION)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have searches of this process train nothing and use no Ray."""
    from tuning import stages
    from tuning.cluster import devices, hosting
    from tuning.preflight import asking, learning_rate, measuring
    from tuning.results import finalize, handout, samples
    from tuning.state import run_folder
    from tuning.trials import phases, tuner

    monkeypatch.setattr(tuner, "ray_tune", RAY_TUNE)
    for module in (tuner, devices):
        monkeypatch.setattr(module, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": CPUS}))
    monkeypatch.setattr(phases, "save_all", _save_all)
    monkeypatch.setattr(stages, "_ray", _no_ray)
    monkeypatch.setattr(asking, "asks_a_host", lambda plan: False)
    monkeypatch.setattr(run_folder, "revision", lambda: None)  # it asks git, which is a process
    monkeypatch.setattr(hosting, "hosts_for", _no_hosts)
    monkeypatch.setattr(hosting, "_names", lambda hosts: [])
    monkeypatch.setattr(hosting, "run", _run)
    for module in (learning_rate, measuring, finalize, handout, samples):
        monkeypatch.setattr(module, "ask", _answer)


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no pictures drawn, which take most of such a search's time; the report has its text."""
    from analysis.report import publish
    from tuning.results import trial_files

    monkeypatch.setattr(publish.pictures, "drawn", lambda assessment, info: [])
    monkeypatch.setattr(trial_files, "draw", lambda strategy, ranks, path: path.write_bytes(b"a picture"))


class Killed(BaseException):
    """The process of a search has ended at this moment."""


def at(monkeypatch: pytest.MonkeyPatch, moment: Callable[[Harvest], bool], do: Callable[[], None]) -> None:
    """Have something done, once, after the first event of Ray's at which something is so of what has been noted."""
    tell, done = Tuner._tell, []

    def told(self: Tuner, event: str, *facts: Any) -> None:
        tell(self, event, *facts)
        if not done and moment(self.callbacks[0]):
            done.append(True)
            do()

    monkeypatch.setattr(Tuner, "_tell", told)


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: Callable[[Harvest], bool]) -> None:
    """Have a search end there like a process that is killed."""

    def kill() -> None:
        raise Killed

    at(monkeypatch, moment, kill)


def look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have versions of libraries, and what is known of a plan beforehand, found out once instead of at each start."""
    from tuning.preflight import preflight
    from tuning.state import continuation, run_folder

    check, versions, checked = preflight.check, run_folder.versions(), {}

    def remembered(plan: Any) -> Any:
        key = plan.model_copy(update={"runs_dir": "", "corpus_sha256": None}).model_dump_json()
        if key not in checked:
            checked[key] = check(plan)
        return checked[key]

    monkeypatch.setattr(preflight, "check", remembered)
    for module in (continuation, run_folder):
        monkeypatch.setattr(module, "versions", lambda: versions)
