"""Trials of a phase as a person sees them: a live table, best first, or a line for each that has ended."""

import datetime
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status, TrialConfig

BESIDE_ROWS = 9
"""Lines of a screen that the table's rows do not have."""
LEAST_ROWS = 4
COLUMNS = {"trial": "left", "learning rate": "right", "parameters": "right", "step": "right", "eval loss": "right",
           "status": "left"}  # fmt: skip


@dataclass(slots=True)
class Line:
    """A trial as it is shown."""

    name: str
    learning_rate: float | None = None
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
            "" if self.learning_rate is None else f"{self.learning_rate:.2g}",
            "" if self.params is None else f"{self.params:,}",
            "" if self.step is None else str(self.step),
            "" if self.loss is None else f"{self.loss:.4f}",
            self.status,
        )

    @property
    def place(self) -> tuple[bool, bool, float]:
        """Where it stands among others: those that finished before others, best first."""
        loss = math.inf if self.loss is None else self.loss
        return self.status == Status.RUNNING, self.status != Status.FINISHED, loss


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is expected of a search beside the trials that are shown.

    Args:
        later: Runs of the phases to come.
        reports: How often a trial reports that is trained to its end.
        elapsed_seconds: How long the search took before this phase.
    """

    later: int = 0
    reports: int = 1
    elapsed_seconds: float = 0.0


class Progress:
    """One live table on a terminal, one line per ended trial elsewhere.

    Args:
        total: Trials that there will be.
        ended_before: Those of them that have ended before, in an earlier run of the search.
        ahead: What comes after them.
        title: What they are.
        console: Where to print.
    """

    def __init__(
        self,
        total: int,
        ended_before: Sequence[ResultRow] = (),
        ahead: Ahead = Ahead(),
        title: str = "search",
        console: Console | None = None,
    ) -> None:
        self.total, self.began, self.ended_before = total, time.monotonic(), len(ended_before)
        self.ahead, self.title = ahead, title
        self.lines: dict[str, Line] = {}
        self.best: tuple[float, str] = (math.inf, "")
        for row in ended_before:
            self._note_best(row)
        self.console = console or Console()
        is_screen = self.console.is_terminal and not self.console.is_dumb_terminal
        # once a second, so that time goes on and a window that was resized is filled anew
        live = Live(console=self.console, get_renderable=self._shown, refresh_per_second=1)
        self.live = live if is_screen else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def started(self, config: TrialConfig) -> None:
        """Show a new trial."""
        self.lines[config.trial_id] = Line(config.name, config.learning_rate)
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
            so_far = f"{self._best()}, {self._elapsed()}, {self._time_left()}"
            text = f"{self._ended()}/{self.total}  {'  '.join(line.cells)}{why}  |  {so_far}"
            self.console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def _note_best(self, row: ResultRow) -> None:
        loss = math.inf if row.final_eval_loss is None else row.final_eval_loss
        # plain LoRA of another size shows what parameters are worth, and is no rival
        if row.status == Status.FINISHED and row.phase != Phase.SIZES and loss < self.best[0]:
            self.best = (loss, row.experiment_name)

    def _show(self) -> None:
        if self.live:
            self.live.refresh()

    def _shown(self) -> Group:
        # not as the table's title, which would be wrapped at the table's width
        ended = f"{self.title.capitalize()}: {self._ended()} of {self.total} ended"
        head = Text(f"{ended}, {self._elapsed()}, {self._time_left()}\n{self._best()}", style="italic")
        return Group(head, self._table())

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, side in COLUMNS.items():
            # the trial's name alone may be cut: it is the longest, and the rest says which it is
            cut = name == "trial"
            table.add_column(name, justify=side, no_wrap=not cut, overflow="ellipsis")  # type: ignore[arg-type]
        lines = sorted([*self.lines.values()], key=lambda line: line.place)
        running = [line for line in lines if line.status == Status.RUNNING]
        ended = lines[: len(lines) - len(running)]
        most_shown = max(LEAST_ROWS, self.console.height - BESIDE_ROWS - len(running))
        for line in [*ended[:most_shown], *running]:
            table.add_row(*line.cells)
        if len(ended) > most_shown:
            table.add_row(f"… {len(ended) - most_shown} more")
        return table

    def _ended(self) -> int:
        return self.ended_before + sum(line.status != Status.RUNNING for line in [*self.lines.values()])

    def _best(self) -> str:
        return f"best {self.best[0]:.4f} ({self.best[1]})" if self.best[1] else "best: none yet"

    def _elapsed(self) -> str:
        """Return for how long the whole search has gone on."""
        return f"{_clock(time.monotonic() - self.began + self.ahead.elapsed_seconds)} elapsed"

    def _time_left(self) -> str:
        """Extrapolate from the reports so far to the end of all phases: trials to come are as long as ended ones."""
        lines = [*self.lines.values()]
        lengths = [line.reports for line in lines if line.status != Status.RUNNING]
        done = sum(line.reports for line in lines)
        if not lengths:
            return "time left not known yet"
        here = sum(lengths) / len(lengths) * (self.total - self.ended_before)
        rest = max(0.0, here - done) + self.ahead.later * self.ahead.reports
        return f"about {_clock((time.monotonic() - self.began) * rest / max(1, done))} left in all"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
