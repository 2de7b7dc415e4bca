"""What a search's own command shows of it: what was asked for, what it is busy with, its trials."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.status import Status as Spinner

from analysis.results.rows import ResultRow
from analysis.results.run_info import FACTS
from analysis.results.trial_config import Phase, TrialConfig
from tuning.callbacks.progress import Ahead, Progress
from tuning.lifecycle.timeline import Stage
from tuning.observer import SearchObserver, SearchSize
from tuning.plan.search_plan import SearchPlan

BUSY = {
    Stage.IMPORTS: "Loading libraries",
    Stage.CHECKS: "Reading model and data",
    Stage.RAY: "Starting Ray",
    Stage.LOADING: "Loading the base where trials run",
    Stage.MEASURING: "Measuring what can be adapted, and what strategies score from",
    Stage.FIRST_STEP: "Training the first steps",
    Stage.REPORT: "Measuring the winner again, and writing the report",
}
"""What is said of a stage in which there is nothing else to see."""


class SteadyConsole(Console):
    """A console that never hides the cursor: a process that ends at once could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        """Leave it as it is."""
        return False


class Terminal(SearchObserver):
    """Prints what a person wants to see; what is wrong goes to standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or SteadyConsole()
        self._is_screen = self._console.is_terminal and not self._console.is_dumb_terminal
        self._began, self._errors = time.monotonic(), sys.stderr  # which rich leads to the screen while something moves
        self._plan: SearchPlan | None = None
        self._said = set[str]()
        self._earlier_seconds, self._confirmed = 0.0, 0  # of earlier runs of the search; runs that confirm so far
        self._spinner: Spinner | None = None
        self._progress: Progress | None = None

    def planned(self, plan: SearchPlan) -> None:
        """Print what was asked for, once."""
        if self._plan is None:
            self.noted(asked(plan))
        self._plan = plan
        if plan.name is not None and (plan.run_dir / FACTS).is_file():  # what goes on, not what begins
            from tuning.state.continuation import seconds_so_far  # here, since whoever begins needs none of it

            self._earlier_seconds = sum(seconds_so_far(plan.run_dir).values())

    def stage_began(self, stage: Stage) -> None:
        """Show what the search is busy with: in one line that goes again, or a line for each."""
        self._rest()
        text = BUSY.get(stage)
        if text is None or (text in self._said and not self._is_screen):
            return
        self._said.add(text)
        if self._is_screen:
            self._spinner = Spinner(f"{text} …", console=self._console)
            self._spinner.start()
        else:
            self.noted(f"{text} …")

    def sized(self, size: SearchSize) -> None:
        """Print how large the search is."""
        for line in size.data:
            self.noted(line)
        runs = f"{size.trials} trials" + (f" and at most {size.confirmations} more" if size.confirmations else "")
        minutes = max(1, round(size.seconds / 60))
        self.noted(
            f"{size.base_params:,} parameters, of which a trial trains at most {size.budget_params:,}; "
            f"{runs}: about {minutes:,} minute{'s' * (minutes > 1)} if one follows the other"
        )

    def noted(self, line: str) -> None:
        """Print a line, above what moves."""
        if self._is_screen:
            self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line)

    def warned(self, line: str) -> None:
        """Print a line on standard error; where that is the same screen, above what moves."""
        if self._is_screen and self._errors is not None and self._errors.isatty():
            self.noted(line)
        elif self._errors is not None:
            click.echo(line, file=self._errors)

    def phase_began(self, phase: str, trials: int, ended: Sequence[ResultRow]) -> None:
        """Begin a table."""
        self._rest()
        self._progress = Progress(trials, ended, self._ahead(phase, trials), phase, self._console)
        self._progress.__enter__()

    def started(self, config: TrialConfig) -> None:
        """Show a new trial."""
        if self._progress:
            self._progress.started(config)

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Show a report."""
        if self._progress:
            self._progress.reported(trial_id, report)

    def ended(self, row: ResultRow) -> None:
        """Show how a trial ended."""
        if self._progress:
            self._progress.ended(row)

    def phase_ended(self) -> None:
        """Leave the table as it stands."""
        if self._progress:
            self._progress.__exit__()
        self._progress = None

    def close(self) -> None:
        """Leave nothing on the screen that moves, however the search has ended."""
        self._rest()
        self.phase_ended()

    def _rest(self) -> None:
        if self._spinner:
            self._spinner.stop()
        self._spinner = None

    def _ahead(self, phase: str, trials: int) -> Ahead:
        """Return what comes after a phase of so many trials, later looks at their seeds among it."""
        plan, elapsed_seconds = self._plan, self._earlier_seconds + time.monotonic() - self._began
        if plan is None:
            return Ahead(elapsed_seconds=elapsed_seconds)
        self._confirmed += trials if phase == Stage.CONFIRMATION else 0
        later_looks = max(0, plan.likely_confirmations - self._confirmed) if plan.looks else 0
        runs: dict[str, int] = {
            Phase.SEARCH: plan.likely_confirmations + plan.likely_controls,
            Stage.CONFIRMATION: later_looks + plan.likely_controls,
        }
        return Ahead(runs.get(phase, 0), plan.reports, elapsed_seconds)


def asked(plan: SearchPlan) -> str:
    """Return what was asked for, in a few lines."""
    budget = f"{plan.budget:,} parameters" if plan.budget else f"that of plain LoRA of rank {plan.budget_rank or 2}"
    what = "the five experiments of the seed report" if plan.official else ", ".join(plan.strategies)
    count = f"{plan.first_seeds} to {plan.most_seeds}" if plan.looks else plan.confirm_seeds
    is_said = plan.most_confirmations and plan.time_limit is None
    seeds = f", then {count} fresh seeds for the verdict" if is_said else ""
    trials = f"{plan.trials} trials" if plan.time_limit is None else f"within {plan.time_limit}"
    return f"{trials}: {what}\nmodel {plan.model}\ndata {plan.dataset}\nbudget {budget}{seeds}"
