"""What a search's own command shows of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from tuning.callbacks.progress import Progress
from tuning.observer import SearchObserver, SearchSize


class Terminal(SearchObserver):
    """Prints what a person wants to see; what is wrong goes to standard error."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def sized(self, size: SearchSize) -> None:
        """Print what is read."""
        for line in size.data:
            click.echo(line)

    def noted(self, line: str) -> None:
        """Print a line."""
        click.echo(line)

    def warned(self, line: str) -> None:
        """Print a line on standard error."""
        click.echo(line, err=True)

    def phase_began(self, phase: str, trials: int, ended: Sequence[ResultRow]) -> None:
        """Begin a table."""
        self._progress = Progress(trials, ended)
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
