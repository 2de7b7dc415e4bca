"""What is logged to MLflow, and the replay of what it missed.

Whatever happens becomes an event in the run folder's outbox at once, and MLflow gets it when it can: an MLflow that is
down, slow or late gets the rest by ``python -m tuning.tracking replay RUN_DIR``.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.results.confinement import check_folder
from analysis.results.messages import to_stderr
from analysis.results.rows import ResultRow
from analysis.results.trial_config import BUDGET_SHARE, CONTROL_OF, LEARNING_RATE, Phase, Status, TrialConfig
from tuning.tracking.mlflow_client import PARENT, MlflowCarrier, now_ms
from tuning.tracking.outbox import Outbox, Target, lock
from tuning.tracking.run_history import RunHistory
from tuning.tracking.uploader import Sink as Sink
from tuning.tracking.uploader import attempt, deliver, reaching

METRICS = (  # the first is what MLflow's comparison draws unless told otherwise
    "eval_loss", "train_loss", "test_loss", "perplexity", "tokens", "tokens_per_second", "trainable_parameters",
    "parameter_efficiency", "peak_bytes", "seconds",
)  # fmt: skip
END = {
    Status.FINISHED: "FINISHED",
    Status.STOPPED: "FINISHED",  # as the scheduler wanted: MLflow has a red cross for all else
    Status.DIVERGED: "FAILED",
    Status.FAILED: "FAILED",
}


def open_sink(
    run_dir: Path,
    uri: str,
    artifacts: str | None,
    search: str | None = None,
    warn: Callable[[str], None] = to_stderr,
) -> Sink:
    """Begin to track a search, or go on if the folder has events already.

    Args:
        run_dir: Where the outbox lies.
        uri: MLflow's tracking URI.
        artifacts: Where a local MLflow keeps artifacts; None for a server, which decides itself.
        search: What identifies the search in MLflow, whatever its folder is called; default is the folder's name.
        warn: Takes a line on what goes wrong.
    """
    outbox = Outbox(run_dir, Target(uri, artifacts, search or run_dir.name), warn=warn)
    return Sink(outbox, lambda: MlflowCarrier(outbox.target))


def remaining(run_dir: Path) -> int:
    """Return how many events of the outbox MLflow does not have yet."""
    return Outbox(run_dir).remaining()


def replay(run_dir: Path, to: Callable[[Target], Target] = lambda target: target) -> tuple[int, int]:
    """Carry what MLflow refused and what it does not have yet, and return how many were carried and how many refused.

    Args:
        run_dir: The folder of the run.
        to: Takes where its events go, by its files, and returns where they shall go.

    Raises:
        filelock.Timeout: A search or another replay is carrying them.
        UnknownTarget: The folder does not say where MLflow is.
        ValueError: Something in the folder leads out of it.
        Unreachable: An event did not arrive; what arrived before it is remembered.
        OSError: A file of the folder cannot be read or written.
    """
    check_folder(run_dir)
    with lock(run_dir):
        outbox = Outbox(run_dir, to=to)
        with reaching():
            carrier = MlflowCarrier(outbox.target)
        history = RunHistory(outbox.events())
        again = [event for event in outbox.refused() if not history.is_past(event)]
        reasons = [attempt(outbox, carrier, event) for event in again]
        outbox.keep_refused([(event, reason) for event, reason in zip(again, reasons, strict=True) if reason])
        arrived = [deliver(outbox, carrier, event, end) for event, end in outbox.waiting()]
        with reaching():
            carrier.reconcile()
        return reasons.count(None) + sum(arrived), len(outbox.refused())


class Tracking:
    """Puts what happens to trials into the outbox: a child run per trial, parameters once, metrics per report.

    Args:
        sink: Takes events.
        data: Name and digest of the data set that trials are trained on; None if that is not said.
    """

    def __init__(self, sink: Sink, data: tuple[str, str] | None = None) -> None:
        self.sink, self.data = sink, data

    def started(self, config: TrialConfig) -> None:
        """Open the trial's run; one that was interrupted goes on."""
        params = {key: value for key, value in config.to_ray().items() if not isinstance(value, dict)}
        # what every strategy has is one column of MLflow's; its comparison draws the first three in the alphabet, so
        # names of the rest begin with a word that comes after these
        common = {LEARNING_RATE: config.learning_rate, BUDGET_SHARE: config.budget_share}
        particular = {CONTROL_OF: config.control_of, **config.params}
        named = common | {f"strategy/{config.strategy}/{key}": value for key, value in particular.items()}
        params |= {key: value for key, value in named.items() if value is not None}
        tags = {"strategy": config.strategy, "status": Status.RUNNING, "phase": config.phase}
        parent = PARENT if config.phase == Phase.SEARCH else Phase.CONFIRM
        self.sink.put(
            "start", config.trial_id, name=config.name, params=params, tags=tags, time_ms=now_ms(), parent=parent
        )
        self._say_data(config.trial_id)

    def open_group(self, name: str) -> None:
        """Open a run under the parent; trials of this phase become its children."""
        tags = {"kind": name, "status": Status.RUNNING}
        self.sink.put("start", name, name=name, params={}, tags=tags, time_ms=now_ms())
        self._say_data(name)

    def _say_data(self, run: str) -> None:
        if self.data is not None:
            name, digest = self.data
            self.sink.put("dataset", run, name=name, digest=digest)

    def close_group(self, name: str) -> None:
        """Close a group's run."""
        self.sink.put("end", name, status="FINISHED", tags={"status": Status.FINISHED}, time_ms=now_ms())

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Log a report; a step that is reported again, by a trial that was restarted, is not."""
        values = {key: float(report[key]) for key in METRICS if _is_number(report.get(key))}
        if values.get("eval_loss", math.inf) < 700:
            values["perplexity"] = math.exp(values["eval_loss"])
        self.sink.put("metrics", trial_id, values=values, step=int(report.get("step", 0)), time_ms=now_ms())

    def base(self, losses: Mapping[str, float], step: int) -> None:
        """Log losses of the untouched base at the search's own run."""
        if losses:
            values = {f"base_{name}": loss for name, loss in losses.items()}
            self.sink.put("metrics", PARENT, values=values, step=step, time_ms=now_ms())

    def ended(self, row: ResultRow) -> None:
        """Close the trial's run."""
        tags = {"status": row.status, "outcome": row.status, "phase": row.phase} | (
            {"error": row.error} if row.error else {}
        )
        self.sink.put("end", row.trial_id, status=END[row.status], tags=tags, time_ms=now_ms())

    def interrupted(self) -> None:
        """Close every run that is open, the search's own too; those that go on are opened again."""
        self.sink.end_open_runs(now_ms())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
