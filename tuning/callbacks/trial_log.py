"""Trials in the log of a search, and when the first of them has made its first step."""

import logging
from collections.abc import Mapping
from typing import Any

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Status, TrialConfig
from tuning.lifecycle.timeline import Stage, Timeline

log = logging.getLogger(__name__)


class TrialLog:
    """Hears what happens to trials and logs how they begin and end; the first report of all ends a stage.

    Args:
        timeline: Of the search.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def started(self, config: TrialConfig) -> None:
        """Log a beginning."""
        log.info("%s began: %s", config.name, config.to_ray())

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Have the first step end."""
        if self.timeline.stage == Stage.FIRST_STEP:
            self.timeline.enter(Stage.TRIALS)

    def ended(self, row: ResultRow) -> None:
        """Log an end with its losses, in nats per token, and its cause if it has one."""
        level = logging.INFO if row.status in {Status.FINISHED, Status.STOPPED} else logging.WARNING
        values = {"loss": row.final_eval_loss, "test loss": row.test_loss, "parameters": row.trainable_parameters,
                  "seconds": row.training_time_seconds, "restarts": row.restarts}  # fmt: skip
        parts = [f"{name} {_number(value)}" for name, value in values.items() if value is not None]
        parts += [row.error] if row.error else []
        log.log(level, "%s %s: %s", row.experiment_name, row.status, ", ".join(parts))


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
