"""Every trial of the search with its own choices, its status, and where it ended."""

import math
from collections.abc import Sequence

from analysis.results.markup import table
from analysis.results.rows import ResultRow

HEADERS = (
    "trial",
    "strategy",
    "status",
    "learning rate",
    "parameters",
    "last evaluation loss",
    "at step",
    "of",
    "time",
)


def section(rows: Sequence[ResultRow]) -> list[str]:
    """Return the section; empty without trials. Losses at different steps do not compare."""
    if not rows:
        return []
    steps = max((step for row in rows if (step := _last(row, "step")) is not None), default=None)
    lines = ["## Trials", "", "Losses of trials that ended at different steps do not compare.", ""]
    return [*lines, table([_cells(row, steps) for row in rows], HEADERS), ""]


def _cells(row: ResultRow, steps: float | None) -> list[str]:
    loss = row.final_eval_loss if row.final_eval_loss is not None else _last(row, "eval_loss")
    return [
        row.experiment_name,
        row.strategy,
        str(row.status),
        _shown(row.learning_rate, ".2g"),
        _shown(row.trainable_parameters, ",.0f"),
        _shown(loss, ".4f"),
        _shown(_last(row, "step"), ",.0f"),
        _shown(steps, ",.0f"),
        _shown(row.training_time_seconds, ",.1f", " s"),
    ]


def _last(row: ResultRow, name: str) -> float | None:
    """Return the last number of that name that a trial reported; None without any."""
    values = [report.get(name) for report in row.history]
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return numbers[-1] if numbers else None


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
