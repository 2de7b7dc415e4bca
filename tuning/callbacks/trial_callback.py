"""Ray's trials in, rows out. The only reader of Ray's trial and result objects."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ray import tune as ray_tune

from analysis.results.messages import masked, to_stderr
from analysis.results.rows import ResultRow
from analysis.results.trial_config import AFTER_SEARCH, Status, TrialConfig
from tuning.cluster import ray_compat
from tuning.lifecycle.stop import Stop, tells_of_full_disk
from tuning.state.record import Record

log = logging.getLogger(__name__)
HISTORY = ("step", "train_loss", "eval_loss", "seconds")
STATUSES = {
    Status.FINISHED: Status.FINISHED,
    Status.DIVERGED: Status.DIVERGED,
    Status.RUNNING: Status.STOPPED,
}  # at the last report -> of the row


class Listener(Protocol):
    """Hears what happens to trials, in their order and once it is noted; may be slow or fail without harm."""

    def started(self, config: TrialConfig) -> None:
        """Hear that a trial has begun; its reports and its end come later."""
        ...

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Hear what a trial reports: ``StepReport``'s fields and what was applied."""
        ...

    def ended(self, row: ResultRow) -> None:
        """Hear how a trial ended."""
        ...


class Harvest(ray_tune.Callback):  # type: ignore[misc]
    """Notes what trials report, makes a row of every trial that ends, and tells listeners. Never raises.

    A trial that failed since its disk was full has not ended: the search stops instead, and it goes on later.

    Args:
        record: Where it is noted.
        stop: Told when nothing more can be noted.
        listeners: Who else wants to know.
        warn: Takes a line on a listener that failed.
    """

    def __init__(
        self,
        record: Record,
        stop: Stop,
        listeners: Sequence[Listener] = (),
        warn: Callable[[str], None] = to_stderr,
    ) -> None:
        self.record, self.stop, self.listeners, self.warn = record, stop, listeners, warn
        self.started: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Ray pickles callbacks into its snapshot, which is not read."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass a start on, once for each trial."""
        config = TrialConfig.from_ray(trial.config)
        if config.trial_id not in self.started:
            self.started.add(config.trial_id)
            self._tell("started", config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note a report and pass it on."""
        trial_id = _id_of(trial)
        before = self.record.reports.get(trial_id, {}).get(result["step"], {})  # a trial taken up again repeats it
        report = {name: _first(_finite(result.get(name)), before.get(name)) for name in HISTORY}
        self._note(self.record.reported, trial_id, report)
        for event in json.loads(result.get("resource_events") or "[]"):
            self._note(self.record.short_of, event)
        self._tell("reported", trial_id, result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a trial that is started again."""
        self._note(self.record.restarted, _id_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Make a row of a trial that ended by itself or was stopped."""
        self._end(trial, dict(trial.last_result or {}))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Make a row of a trial that failed, even one that failed before it started."""
        self.on_trial_start(iteration, trials, trial)
        error = _cause(trial)
        if error is not None and tells_of_full_disk(error):
            self.stop.for_lack_of_disk_space(f"trial {_id_of(trial)}: {error}")
        self._end(trial, {**(trial.last_result or {}), "status": Status.FAILED, "error": error})

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Have Ray load no pickle of what went wrong: it would now, and nobody reads it."""
        for trial in trials:
            ray_compat.forget_pickled_error(trial)

    def _end(self, trial: Any, last: dict[str, Any]) -> None:
        self.stop.watch_disk()
        config = TrialConfig.from_ray(trial.config)
        trial_id = config.trial_id
        if self.stop.is_broken or trial_id in self.record.rows:  # of a trial that has ended Ray's own files may fail
            return
        reports = self.record.reports.get(trial_id, {})
        row = row_from(config, last, reports.values(), self.record.restarts[trial_id])
        self._note(self.record.ended, row)
        if not self.stop.is_broken:  # what is not noted has not happened
            self._tell("ended", row)
        ray_compat.forget_averages(trial)

    def _note(self, write: Callable[..., None], *facts: Any) -> None:
        """Write to the record; where that cannot be done, the search ends rather than go on without."""
        self.stop.watch_disk()
        try:
            write(*facts)
        except OSError as error:
            self.stop.because_of(error)

    def _tell(self, event: str, *facts: Any) -> None:
        for listener in self.listeners:
            try:
                getattr(listener, event)(*facts)
            except (Exception, SystemExit) as error:  # Ray would end the search, or mark a finished trial as failed
                self.warn(f"{type(listener).__name__} failed: {type(error).__name__}: {error}")
                log.warning("%s failed", type(listener).__name__, exc_info=True)


def row_from(
    config: TrialConfig, last: Mapping[str, Any], history: Iterable[Mapping[str, Any]], restarts: int = 0
) -> ResultRow:
    """Return a trial's row; what is unknown is None.

    Args:
        config: The trial's configuration.
        last: Its last report; may be empty.
        history: All its reports, cut to ``HISTORY``.
        restarts: How often it was started again.
    """
    status = STATUSES.get(last.get("status", ""), Status.FAILED)
    allocation = json.loads(last.get("allocation") or "{}")
    confirmed, test_loss = config.phase in AFTER_SEARCH, _finite(last.get("test_loss"))
    if confirmed and status == Status.FINISHED and test_loss is None:  # leaving it out would flatter its strategy
        status = Status.DIVERGED
    documents = last.get("test_documents") if confirmed and test_loss is not None else None
    loss = _finite(last.get("eval_loss")) if status in {Status.FINISHED, Status.STOPPED} else None
    return ResultRow(
        trial_id=config.trial_id,
        experiment_name=config.name,
        phase=config.phase,
        strategy=config.strategy,
        status=status,
        seed=config.seed,
        config=replace(config, trial_id="").to_ray(),
        ranks=allocation.get("ranks"),
        alphas=allocation.get("alphas"),
        fan_in_fan_out=last.get("fan_in_fan_out"),
        trainable_parameters=last.get("trainable_parameters"),
        parameter_efficiency=last.get("parameter_efficiency"),
        final_eval_loss=loss,
        final_perplexity=math.exp(loss) if loss is not None and loss < 700 else None,
        test_loss=test_loss if status == Status.FINISHED else None,
        test_documents=None if documents is None else json.loads(documents),
        training_time_seconds=_finite(last.get("seconds")),
        tokens=last.get("tokens"),
        restarts=restarts,
        error=masked(last.get("error") or "") or None,
        history=tuple(history),
    )


def _id_of(trial: Any) -> str:
    return TrialConfig.from_ray(trial.config).trial_id


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _cause(trial: Any) -> str | None:
    """Return type and first line of what went wrong last in a trial; None if Ray has written nothing down."""
    if not trial.error_file or not Path(trial.error_file).is_file():
        return None
    try:
        return ray_compat.cause_in(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        return f"not known: {error.filename}: {error.strerror}"
