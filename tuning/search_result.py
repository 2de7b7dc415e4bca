"""How a search ends: with a result, or with one of two errors."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.results.rows import ResultRow, surviving_rows
from analysis.results.run_info import RunInfo, handed_out_trial

if TYPE_CHECKING:
    import pandas

    from analysis.stats.assessment import SearchAssessment
    from analysis.stats.verdicts import Verdict

BEST_ADAPTER, REPORT, ROWS = "best_adapter", "report.html", "rows.jsonl"
COLUMNS = (
    "trial_id", "strategy", "phase", "status", "seed", "learning_rate", "budget_share", "trainable_parameters",
    "final_eval_loss", "final_perplexity", "test_loss", "training_time_seconds", "tokens", "restarts", "control_of",
    "error",
)  # fmt: skip
"""Of ``SearchResult.trials``; a column follows for each parameter of a strategy, as ``linear_decay/slope``."""


class Unusable(ValueError):
    """The plan cannot be carried out, for a reason that its author can mend. Nothing has been written."""


class SearchStopped(Exception):
    """A search has ended before its end, and in order: ``resume`` takes it up.

    Args:
        why: In one line, with how to go on.
        status: Of the command: 4 if a disk is full, 5 if a disk or Ray failed, 129, 130 or 143 for a signal.
        result: What there is so far.
    """

    def __init__(self, why: str, status: int, result: "SearchResult") -> None:
        super().__init__(why)
        self.status, self.result = status, result


@dataclass(frozen=True, init=False)
class SearchResult:
    """What a search has left in its run folder; each part is read when it is first asked for.

    ``SearchResult("runs/NAME")`` is that of a search that has run before.

    Args:
        run_dir: The folder.
        status: Exit status of the command: 0 all well, 1 no usable trial, 3 some trials failed, 6 the winner's adapter
            has another loss when others load it. None where a folder is all that is known.
    """

    run_dir: Path
    status: int | None = None

    def __init__(self, run_dir: str | os.PathLike[str], status: int | None = None) -> None:
        object.__setattr__(self, "run_dir", Path(run_dir))
        object.__setattr__(self, "status", status)

    @cached_property
    def trials(self) -> "pandas.DataFrame":
        """A row for each trial, in the order in which they ended; losses in nats per token."""
        import pandas  # here, since it takes long to import

        rows = [{name: getattr(row, name) for name in COLUMNS} | _parameters(row) for row in self.assessment.rows]
        return pandas.DataFrame(rows, columns=[*dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])])

    @property
    def best(self) -> ResultRow | None:
        """The trial of the search of lowest evaluation loss, which may be best by chance; None without a usable one."""
        return self.assessment.best_trial

    @property
    def verdicts(self) -> "Mapping[str, Verdict]":
        """Strategy -> what its confirmation runs say against plain LoRA, lowest difference in test loss first."""
        return {verdict.strategy: verdict for verdict in self.assessment.verdicts}

    @property
    def recommended(self) -> ResultRow | None:
        """The run to use; None without a usable one."""
        return self.assessment.recommended

    @property
    def best_adapter(self) -> Path | None:
        """The folder of that run's adapter, which plain PEFT loads; None if none could be verified."""
        folder, best = self.run_dir / BEST_ADAPTER, self.recommended
        if not folder.is_dir() or best is None:
            return None
        return folder if handed_out_trial(self.run_dir) in {None, best.trial_id} else None

    @property
    def report(self) -> Path | None:
        """The report's page; None if it is not written yet. ``report.md`` beside it is the same in Markdown."""
        path = self.run_dir / REPORT
        return path if path.is_file() else None

    @cached_property
    def assessment(self) -> "SearchAssessment":
        """What the trials say.

        Raises:
            ValueError: The folder is none of a search.

        Warns:
            UserWarning: A line of its rows is damaged.
        """
        from analysis.stats.assessment import assess  # as above

        info = RunInfo.of_run(self.run_dir, "")
        return assess(_rows(self.run_dir / ROWS), info.margin, info.containing_plain)


def _rows(path: Path) -> Sequence[ResultRow]:
    rows, damage = surviving_rows(path) if path.is_file() else ([], [])
    if damage:
        lines = "; ".join(f"line {number}: {reason}" for number, reason in damage)
        warnings.warn(f"{path}: {lines}; the result is without them", stacklevel=2)
    return rows


def _parameters(row: ResultRow) -> dict[str, Any]:
    return {f"{row.strategy}/{name}": value for name, value in row.trial_config.params.items()}
