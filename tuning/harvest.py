"""Ray's trials in, rows out. The only reader of Ray's trial and result objects."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ray import cloudpickle
from ray import tune as ray_tune
from ray.exceptions import RayTaskError

from analysis.rows import ResultRow, append_row
from tuning.space import budget_share

HISTORY = ("step", "train_loss", "eval_loss", "seconds")
STATUSES = {"finished": "finished", "diverged": "diverged", "running": "stopped"}


class Listener(Protocol):
    """Hears what happens to trials, in their order; may be slow or fail without harm to the search."""

    def started(self, trial_id: str, name: str, config: Mapping[str, Any]) -> None:
        """Hear that a trial has begun; its reports and its end come later."""
        ...

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Hear what a trial reports: ``StepReport``'s fields and what was applied."""
        ...

    def ended(self, row: ResultRow) -> None:
        """Hear how a trial ended."""
        ...


class Harvest(ray_tune.Callback):  # type: ignore[misc]
    """Makes a row of every trial that ends, writes it to disk at once, and tells listeners. Never raises.

    Args:
        path: The .jsonl that receives a line per ended trial.
        listeners: Who else wants to know.
    """

    def __init__(self, path: Path, listeners: Sequence[Listener] = ()) -> None:
        self.path, self.listeners = path, listeners
        self.rows: dict[str, ResultRow] = {}
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        self.resource_events: dict[str, None] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Ray pickles callbacks into its snapshot, and rows have a file of their own."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass a start on, once for each trial."""
        if trial.trial_id not in self.history:
            self.history[trial.trial_id] = {}
            name = experiment_name(trial.config, trial.trial_id)
            self._tell("started", trial.trial_id, name, trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass a report on."""
        report = {name: _finite(result.get(name)) for name in HISTORY}
        self.history[trial.trial_id][result["step"]] = report  # a restarted trial may report a step twice
        self.resource_events |= dict.fromkeys(json.loads(result.get("resource_events") or "[]"))
        self._tell("reported", trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Make a row of a trial that ended by itself or was stopped."""
        self._end(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Make a row of a trial that failed, even one that failed before it started."""
        self.on_trial_start(iteration, trials, trial)
        self._end(trial, failed=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Put the rows into the order in which the trials were made."""
        ids = [trial.trial_id for trial in trials]
        self.rows = {trial_id: self.rows[trial_id] for trial_id in ids if trial_id in self.rows}

    def _end(self, trial: Any, failed: bool) -> None:
        last = dict(trial.last_result or {})
        if failed:
            last |= {"status": "failed", "error": _cause(trial)}
        row = row_from(trial.trial_id, trial.config, last, self.history[trial.trial_id].values())
        self.rows[row.trial_id] = row
        append_row(row, self.path)
        self._tell("ended", row)

    def _tell(self, event: str, *facts: Any) -> None:
        for listener in self.listeners:
            try:
                getattr(listener, event)(*facts)
            except Exception as error:  # Ray would end the search, or mark a finished trial as failed
                print(f"{type(listener).__name__} failed: {type(error).__name__}: {error}", file=sys.stderr)


def row_from(
    trial_id: str, config: Mapping[str, Any], last: Mapping[str, Any], history: Iterable[Mapping[str, Any]]
) -> ResultRow:
    """Return a trial's row; what is unknown is None.

    Args:
        trial_id: Ray's id.
        config: The trial's configuration.
        last: Its last report; may be empty.
        history: All its reports, cut to ``HISTORY``.
    """
    status = STATUSES.get(last.get("status", ""), "failed")
    allocation = json.loads(last.get("allocation") or "{}")
    loss = _finite(last.get("eval_loss")) if status in {"finished", "stopped"} else None
    return ResultRow(
        trial_id=trial_id,
        experiment_name=experiment_name(config, trial_id),
        phase=config.get("phase", "search"),
        strategy=config["strategy"],
        status=status,
        seed=config.get("seed"),
        config=dict(config),
        ranks=allocation.get("ranks"),
        alphas=allocation.get("alphas"),
        fan_in_fan_out=last.get("fan_in_fan_out"),
        trainable_parameters=last.get("trainable_parameters"),
        parameter_efficiency=last.get("parameter_efficiency"),
        final_eval_loss=loss,
        final_perplexity=math.exp(loss) if loss is not None and loss < 700 else None,
        test_loss=_finite(last.get("test_loss")) if status == "finished" else None,
        training_time_seconds=_finite(last.get("seconds")),
        tokens=last.get("tokens"),
        error=last.get("error"),
        history=tuple(history),
    )


def experiment_name(config: Mapping[str, Any], trial_id: str) -> str:
    """Return a trial's name everywhere: in Ray, MLflow and the report."""
    strategy = config["strategy"]
    if config.get("phase") == "confirm":
        return f"{strategy}_seed{config['seed']}"
    rate, share = config.get(strategy, {}).get("learning_rate"), budget_share(config)
    tried = ([] if share is None else [f"budget{share:.2g}"]) + ([] if rate is None else [f"lr{rate:.2g}"])
    return str(config.get("official") or "_".join((strategy, *tried, trial_id)))


def adapters_of(results: Iterable[Any]) -> dict[str, Path]:
    """Return trial id -> folder of its last adapter, from Ray's results."""
    return {
        result.metrics["trial_id"]: Path(result.checkpoint.path) / "session" / "adapter"
        for result in results
        if result.metrics and result.checkpoint is not None
    }


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _cause(trial: Any) -> str | None:
    """Return type and first line of what went wrong in a trial; Ray keeps the error in a file beside the trial."""
    if not trial.pickled_error_file or not Path(trial.pickled_error_file).is_file():
        return None
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else 'no message'}"
