"""What a person sees while a search runs."""

import datetime
import math
import time
from typing import Any

from ray import tune as ray_tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tuning.harvest import status_of
from tuning.study import METRIC

SHOWN_ENDED = 12


class Progress(ray_tune.Callback):  # type: ignore[misc]
    """One live table on a terminal, one line per event elsewhere. Never raises."""

    def __init__(self, trials: int) -> None:
        self.total, self.started = trials, time.monotonic()
        self.rows: dict[str, dict[str, Any]] = {}
        self.best: tuple[float, str] = (math.inf, "")
        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal out: Ray pickles callbacks, and nothing reads them back."""
        return {"total": self.total}

    def setup(self, **info: Any) -> None:
        """Open the table."""
        if self.live:
            self.live.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a new trial."""
        self._note(trial, {}, "running")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show a report."""
        self._note(trial, result, result.get("status", "running"))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show how a trial ended."""
        result = trial.last_result or {}
        self._note(trial, result, status_of(result, failed=False), ended=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a failure."""
        self._note(trial, {}, "failed", ended=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Close the table."""
        if self.live:
            self.live.stop()

    def _note(self, trial: Any, result: dict[str, Any], status: str, ended: bool = False) -> None:
        row = self.rows.setdefault(
            trial.trial_id,
            {
                "strategy": trial.config["strategy"],
                "ended": False,
                "reports": 0,
            },
        )
        row |= {"status": status, "ended": ended or row["ended"]}
        row["reports"] = max(row["reports"], result.get("training_iteration", 0))
        row |= {key: result[key] for key in ("trainable_parameters", "step", METRIC) if result.get(key) is not None}
        if status == "finished" and row[METRIC] < self.best[0]:
            self.best = (row[METRIC], row["strategy"])
        if self.live:
            self.live.update(self._table(), refresh=True)
        elif ended:
            self.console.print(self._line(trial.trial_id, row), highlight=False, soft_wrap=True)

    def _line(self, trial_id: str, row: dict[str, Any]) -> str:
        return f"{self._ended()}/{self.total}  {'  '.join(self._cells(trial_id, row))}  |  {self._summary()}"

    def _cells(self, trial_id: str, row: dict[str, Any]) -> tuple[str, ...]:
        params, loss = row.get("trainable_parameters"), row.get(METRIC)
        return (
            trial_id,
            row["strategy"],
            f"{params:,}" if params else "",
            str(row.get("step", "")),
            f"{loss:.4f}" if loss is not None else "",
            row["status"],
        )

    def _table(self) -> Table:
        table = Table(title=self._summary(), title_justify="left")
        for name in ("trial", "strategy", "params", "step", "eval loss", "status"):
            table.add_column(name, justify="right" if name in {"params", "step", "eval loss"} else "left")
        ended = [item for item in self.rows.items() if item[1]["ended"]]
        running = [item for item in self.rows.items() if not item[1]["ended"]]
        for trial_id, row in ended[-SHOWN_ENDED:] + running:
            table.add_row(*self._cells(trial_id, row))
        return table

    def _ended(self) -> int:
        return sum(row["ended"] for row in self.rows.values())

    def _summary(self) -> str:
        best = f"best {self.best[0]:.4f} ({self.best[1]})" if self.best[1] else "best: none yet"
        return f"{self._ended()} of {self.total} trials ended, {best}, {self._time_left()}"

    def _time_left(self) -> str:
        """Extrapolate from the reports so far: trials to come are taken to be as long as the ended ones on average."""
        done = sum(row["reports"] for row in self.rows.values())
        lengths = [row["reports"] for row in self.rows.values() if row["ended"]]
        if not lengths:
            return "time left not known yet"
        expected = sum(lengths) / len(lengths) * self.total
        seconds = (time.monotonic() - self.started) * max(0.0, expected - done) / max(1, done)
        return f"about {datetime.timedelta(seconds=round(seconds))} left"
