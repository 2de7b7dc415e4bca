"""What a person sees while a search runs."""

import datetime
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Status, TrialConfig

SHOWN_ENDED = 12
COLUMNS = {"trial": "left", "params": "right", "step": "right", "eval loss": "right",
           "status": "left"}  # fmt: skip


@dataclass(slots=True)
class Line:
    """A trial as it is shown."""

    name: str
    params: int | None = None
    step: int | None = None
    loss: float | None = None
    status: Status = Status.RUNNING
    reports: int = 0

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands in the columns; an unknown is empty."""
        return (
            self.name,
            "" if self.params is None else f"{self.params:,}",
            "" if self.step is None else str(self.step),
            "" if self.loss is None else f"{self.loss:.4f}",
            self.status,
        )


class Progress:
    """One live table on a terminal, one line per ended trial elsewhere.

    Args:
        total: Trials that there will be.
        known: Those of them that have ended before, in an earlier run of the search.
        console: Where to print.
    """

    def __init__(self, total: int, ended_before: Sequence[ResultRow] = (), console: Console | None = None) -> None:
        self.total, self.began, self.ended_before = total, time.monotonic(), len(ended_before)
        self.lines: dict[str, Line] = {}
        self.best: tuple[float, str] = (math.inf, "")
        for row in ended_before:
            self._note_best(row)
        self.console = console or Console()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def started(self, config: TrialConfig) -> None:
        """Show a new trial."""
        self.lines[config.trial_id] = Line(config.name)
        self._show()

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Show a report."""
        line = self.lines[trial_id]
        line.params, line.step, line.loss = (report.get(k) for k in ("trainable_parameters", "step", "eval_loss"))
        line.reports += 1
        self._show()

    def ended(self, row: ResultRow) -> None:
        """Show how a trial ended."""
        line = self.lines[row.trial_id]
        line.status, line.loss = row.status, row.final_eval_loss
        self._note_best(row)
        self._show()
        if not self.live:
            why = f": {row.error}" if row.error else ""
            text = f"{self._ended()}/{self.total}  {'  '.join(line.cells)}{why}  |  {self._summary()}"
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _note_best(self, row: ResultRow) -> None:
        if row.status == Status.FINISHED and row.final_eval_loss is not None and row.final_eval_loss < self.best[0]:
            self.best = (row.final_eval_loss, row.experiment_name)

    def _show(self) -> None:
        if self.live:
            # not as the table's title, which would be wrapped at the table's width
            self.live.update(Group(Text(self._headline(), style="italic"), self._table()), refresh=True)

    def _headline(self) -> str:
        return f"{self._ended()} of {self.total} trials ended, {self._summary()}"

    def _table(self) -> Table:
        table = Table()
        for name, side in COLUMNS.items():
            table.add_column(name, justify=side)  # type: ignore[arg-type]
        ended = [line for line in self.lines.values() if line.status != Status.RUNNING]
        running = [line for line in self.lines.values() if line.status == Status.RUNNING]
        for line in ended[-SHOWN_ENDED:] + running:
            table.add_row(*line.cells)
        return table

    def _ended(self) -> int:
        return self.ended_before + sum(line.status != Status.RUNNING for line in self.lines.values())

    def _summary(self) -> str:
        best = f"best {self.best[0]:.4f} ({self.best[1]})" if self.best[1] else "best: none yet"
        return f"{best}, {self._time_left()}"

    def _time_left(self) -> str:
        """Extrapolate from the reports so far: trials to come are taken to be as long as the ended ones on average."""
        lengths = [line.reports for line in self.lines.values() if line.status != Status.RUNNING]
        done = sum(line.reports for line in self.lines.values())
        if not lengths:
            return "time left not known yet"
        expected = sum(lengths) / len(lengths) * (self.total - self.ended_before)
        seconds = (time.monotonic() - self.began) * max(0.0, expected - done) / max(1, done)
        return f"about {datetime.timedelta(seconds=round(seconds))} left in this phase"
