"""Who hears of a search while it runs: a terminal, a notebook, a program."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from tuning.lifecycle.timeline import Stage
from tuning.plan.search_plan import SearchPlan
from tuning.search_result import SearchResult

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SearchSize:
    """How large a search is, as far as that is known before its first trial.

    Args:
        data: What of the data is used and what is left out, a line each.
        base_params: Parameters of the base model.
        budget_params: Trainable parameters that a trial may spend.
        trials: Trials of the search itself.
        confirmations: Runs at most that confirm what was found, controls among them.
        seconds: About how long all of them take on this machine, one after the other.
    """

    data: Sequence[str]
    base_params: int
    budget_params: int
    trials: int
    confirmations: int
    seconds: float


class SearchObserver:
    """Hears what happens in a search, in its order; each method does nothing until it is overridden.

    What a method raises is logged and ends nothing. The thread that searches calls them; ``warned`` another may, too.
    """

    def planned(self, plan: SearchPlan) -> None:
        """Hear what was asked for; nothing of it is checked yet. Again, if a time limit decides some of it."""

    def stage_began(self, stage: Stage) -> None:
        """Hear what the search is busy with from now on."""

    def sized(self, size: SearchSize) -> None:
        """Hear how large the search is: model and data are read, and nothing is trained."""

    def noted(self, line: str) -> None:
        """Hear something that a person may want to read, without an end of line."""

    def warned(self, line: str) -> None:
        """Hear that something is wrong, and what becomes of it."""

    def phase_began(self, phase: str, trials: int, ended: Sequence[ResultRow]) -> None:
        """Hear that trials of a phase are about to run.

        Args:
            phase: ``search``, ``confirmation`` or ``controls``.
            trials: How many there will be.
            ended: Those of them that have ended before, in an earlier run of the search.
        """

    def started(self, config: TrialConfig) -> None:
        """Hear that a trial has begun; its reports and its end come later."""

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Hear what a trial reports: ``eval_loss`` in nats per token, ``step``, ``trainable_parameters`` and more."""

    def ended(self, row: ResultRow) -> None:
        """Hear how a trial ended."""

    def phase_ended(self) -> None:
        """Hear that no trial of the phase runs any more."""

    def finished(self, result: SearchResult) -> None:
        """Hear what the search has found, once all of it is written."""


class Guarded(SearchObserver):
    """Passes on what happens; whatever goes wrong there is no matter of the search.

    Args:
        observer: Who hears it; None if nobody does.
    """

    def __init__(self, observer: SearchObserver | None) -> None:
        self._observer = observer or SearchObserver()

    def planned(self, plan: SearchPlan) -> None:
        """Pass it on."""
        self._tell("planned", plan)

    def stage_began(self, stage: Stage) -> None:
        """Pass it on."""
        self._tell("stage_began", stage)

    def sized(self, size: SearchSize) -> None:
        """Pass it on."""
        self._tell("sized", size)

    def noted(self, line: str) -> None:
        """Pass it on."""
        self._tell("noted", line)

    def warned(self, line: str) -> None:
        """Pass it on."""
        self._tell("warned", line)

    def phase_began(self, phase: str, trials: int, ended: Sequence[ResultRow]) -> None:
        """Pass it on."""
        self._tell("phase_began", phase, trials, ended)

    def started(self, config: TrialConfig) -> None:
        """Pass it on."""
        self._tell("started", config)

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Pass it on."""
        self._tell("reported", trial_id, report)

    def ended(self, row: ResultRow) -> None:
        """Pass it on."""
        self._tell("ended", row)

    def phase_ended(self) -> None:
        """Pass it on."""
        self._tell("phase_ended")

    def finished(self, result: SearchResult) -> None:
        """Pass it on."""
        self._tell("finished", result)

    def _tell(self, event: str, *facts: Any) -> None:
        try:
            getattr(self._observer, event)(*facts)
        except (Exception, SystemExit) as error:
            name = type(self._observer).__name__
            log.warning("%s failed", name, exc_info=True)
            with suppress(Exception, SystemExit):
                self._observer.warned(f"{name} failed: {type(error).__name__}: {error}")
