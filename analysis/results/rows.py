"""One trial is one row; an unknown value is None."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from analysis.results import journal
from analysis.results.atomic_write import replace_text
from analysis.results.confinement import check_name
from analysis.results.strict_json import LARGEST_NUMBER, MOST, is_count, is_number, parsed
from analysis.results.trial_config import Phase, Status, TrialConfig

STATUSES = tuple(status for status in Status if status != Status.RUNNING)
NESTED = ("config", "ranks", "alphas", "history", "test_documents")
INTEGERS = ("seed", "trainable_parameters", "tokens", "restarts")
REPORTED = ("train_loss", "eval_loss", "seconds")
COPIED = ("learning_rate", "budget_share", "control_of")
NUMBERS = (
    "learning_rate",
    "budget_share",
    "parameter_efficiency",
    "final_eval_loss",
    "final_perplexity",
    "test_loss",
    "training_time_seconds",
)


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One trial in the report.

    Args:
        trial_id: Unique in its search.
        experiment_name: Name in the report.
        strategy: Name of the strategy that allocated the ranks.
        status: ``finished`` (all steps), ``stopped`` (by the scheduler), ``diverged`` or ``failed``.
        phase: Part of the protocol the trial belongs to: ``search``, ``confirm``, ``sizes`` for plain LoRA of another
            size beside it, or ``superseded`` for a run of one of these of what a longer search no longer finds best.
        seed: Seed of adapter, data order and dropout.
        config: Hyperparameters, as ``TrialConfig.to_ray`` has them.
        learning_rate: Peak learning rate; as the two below, taken from ``config`` if not given.
        budget_share: Searched share of the budget; None where every trial has all of it.
        control_of: The strategy that it is a control of.
        ranks: Site name -> applied rank, zeros included.
        alphas: Adapted site name -> LoRA's alpha.
        fan_in_fan_out: Whether the adapted layers keep their weight as (d_in, d_out), which PEFT needs to be given.
        trainable_parameters: Parameters of the adapter.
        parameter_efficiency: Trainable share of all parameters.
        final_eval_loss: Mean loss per token on the validation split at the trial's end, in nats.
        final_perplexity: exp of ``final_eval_loss``.
        test_loss: Mean loss per token on the test split.
        test_documents: Of each document of the test split, in an order that all trials of a search share, its summed
            loss and its learned tokens; of confirmation runs, and those of other sizes, alone.
        training_time_seconds: Time in training and evaluation.
        tokens: Learned tokens seen.
        restarts: How often it was restarted after its process died or it raised.
        error: Cause of its divergence or failure.
        history: One mapping per report (step, train_loss, eval_loss, seconds).
    """

    trial_id: str
    experiment_name: str
    strategy: str
    status: Status
    phase: Phase = Phase.SEARCH
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    budget_share: float | None = None
    control_of: str | None = None
    ranks: Mapping[str, int] | None = None
    alphas: Mapping[str, float] | None = None
    fan_in_fan_out: bool | None = None
    trainable_parameters: int | None = None
    parameter_efficiency: float | None = None
    final_eval_loss: float | None = None
    final_perplexity: float | None = None
    test_loss: float | None = None
    test_documents: Sequence[tuple[float, int]] | None = None
    training_time_seconds: float | None = None
    tokens: int | None = None
    restarts: int | None = None
    error: str | None = None
    history: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        config = self.trial_config
        for name in COPIED:
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(config, name))
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        object.__setattr__(self, "status", Status(self.status))
        object.__setattr__(self, "phase", Phase(self.phase))
        for name in NUMBERS:
            value = getattr(self, name)
            if value is not None and not abs(value) < LARGEST_NUMBER:
                raise ValueError(f"{name} must be finite or unknown, got {value}")

    @property
    def trial_config(self) -> TrialConfig:
        """What the trial was asked to do."""
        return replace(TrialConfig.from_ray({"strategy": self.strategy, **self.config}), trial_id=self.trial_id)


FIELDS = tuple(item.name for item in fields(ResultRow))
DOCUMENT = [float, int], [int, int]
MOST_NATS = 700.0
"""Of a loss whose perplexity is a number; a run may end with more, and its report says so much."""
ROW_ERRORS = (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError)
KINDS: dict[str, Any] = {
    **dict.fromkeys(FIELDS, str),
    **dict.fromkeys(("config", "ranks", "alphas"), dict),
    **dict.fromkeys(INTEGERS, int),
    **dict.fromkeys(NUMBERS, int | float),
    **dict.fromkeys(("history", "test_documents"), list),
    "fan_in_fan_out": bool,
}
CONFIG_KINDS: dict[str, Any] = {
    **dict.fromkeys(("strategy", "scaling", "control_of", "source", "official"), str),
    **dict.fromkeys(("learning_rate", "budget_share"), int | float),
    "seed": int,
}
"""Of what a trial was asked to do, which its row has in ``config``."""


def write_rows(rows: Iterable[ResultRow], path: Path) -> None:
    """Write rows as .jsonl, each line with a checksum, or as .csv with nested values in JSON.

    Raises:
        ValueError: The path has another suffix.
    """
    table = [asdict(row) for row in rows]
    if path.suffix == ".jsonl":
        text = "".join(journal.sealed(row) + "\n" for row in table)
    elif path.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in table:
            nested = {name: "" if row[name] is None else json.dumps(row[name], allow_nan=False) for name in NESTED}
            writer.writerow(row | nested)
        text = buffer.getvalue()
    else:
        raise ValueError(f"{path}: rows are written as .jsonl or .csv")
    replace_text(path, text)


def append_row(row: ResultRow, path: Path) -> None:
    """Add a row to a .jsonl; it is on disk when this returns."""
    journal.append(path, asdict(row))


def read_rows(path: Path) -> list[ResultRow]:
    """Read rows from .jsonl or .csv; of several with one trial id, the last counts.

    A .csv may have fewer columns, as the seed's has: without a status, a row is finished if it has a loss and diverged
    if it has none.

    Raises:
        ValueError: Names the file and line that cannot be read.
    """
    if path.suffix == ".csv":
        return _rows_of_csv(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"{path}: rows are read from .jsonl or .csv")
    rows, damage = surviving_rows(path)
    if damage:
        raise ValueError(f"{path}, line {damage[0][0]}: not a row ({damage[0][1]})")
    return rows


def surviving_rows(path: Path) -> tuple[list[ResultRow], journal.Damage]:
    """Return the rows of a .jsonl's intact lines, and the number and reason of each damaged line.

    Ids and names become names of folders: a row is damaged if one of them can be none.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        values, damage = journal.numbered(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    rows, bad_rows = {}, []
    for number, value in values.items():
        try:
            row = _row(value)
            check_name("trial_id", row.trial_id)
            check_name("experiment_name", row.experiment_name)
        except ROW_ERRORS as error:
            bad_rows.append((number, str(error)))
        else:
            rows[row.trial_id] = row
    return list(rows.values()), sorted([*damage, *bad_rows])


def _rows_of_csv(path: Path) -> list[ResultRow]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    csv.field_size_limit(2**31 - 1)  # a long history is one cell
    rows, reader = {}, csv.DictReader(io.StringIO(text))
    try:
        for number, cells in enumerate(reader, 2):
            try:
                row = _row(_from_csv(cells))
            except ROW_ERRORS as error:
                raise ValueError(f"{path}, line {number}: not a row ({error})") from error
            if "trial_id" not in cells and row.trial_id in rows:
                raise ValueError(f"{path}, line {number}: a second {row.trial_id!r}; give rows a trial_id of their own")
            rows[row.trial_id] = row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    return list(rows.values())


def _row(values: dict[str, Any]) -> ResultRow:
    unknown = values.keys() - set(FIELDS)
    if unknown:
        raise ValueError(f"unknown column {sorted(map(str, unknown))[0]!r}")
    _check_kinds(values)
    row = ResultRow(**{**values, "history": tuple(values.get("history") or ())})
    _check_each({name: getattr(row.trial_config, name) for name in CONFIG_KINDS}, CONFIG_KINDS)
    return row


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that would fail only later, in the middle of a report."""
    _check_each(values, KINDS)
    _check_ranks(values.get("ranks") or {}, values.get("alphas") or {})
    for pair in values.get("test_documents") or ():
        if not (isinstance(pair, list) and list(map(type, pair)) in DOCUMENT and math.isfinite(pair[0])):
            raise ValueError("test_documents must be a list of [loss, tokens]")
    if not all(map(_is_report, values.get("history") or ())):
        raise ValueError("history must be a list of mappings, each with its step, and of numbers")
    if (values.get("trainable_parameters") or 0) < 0:
        raise ValueError("trainable_parameters must not be below 0")


def _check_each(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name, value in values.items():
        kind = kinds[name]
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise ValueError(f"{name} must be {kind}, got {str(value)[:40]!r}")
        if isinstance(value, int) and abs(value) >= MOST:
            raise ValueError(f"{name} is too large")


def _is_report(report: Any) -> bool:
    numbers = isinstance(report, dict) and all(report.get(name) is None or is_number(report[name]) for name in REPORTED)
    return numbers and is_number(report.get("step"))


def _check_ranks(ranks: Mapping[str, Any], alphas: Mapping[str, Any]) -> None:
    if not all(is_count(rank) and rank >= 0 for rank in ranks.values()):
        raise ValueError("ranks must map names to numbers, none of them below 0")
    if not all(is_number(alpha) for alpha in alphas.values()):
        raise ValueError("alphas must map names to numbers")
    if alphas and (lacking := [name for name, rank in ranks.items() if rank and name not in alphas]):
        raise ValueError(f"alphas must have every matrix with a rank, {lacking[0][:40]!r} too")


def _whole(name: str, cell: str) -> int:
    """Return a whole number, which pandas writes as 3.0 where others of its column are empty."""
    value = float(cell)
    if not value.is_integer():
        raise ValueError(f"{name} must be a whole number, got {cell!r}")
    return int(value)


def _from_csv(cells: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: value for name, value in cells.items() if value not in {"", None}}
    values |= {name: parsed(values[name]) for name in NESTED if name in values}
    values |= {name: _whole(name, values[name]) for name in INTEGERS if name in values}
    values |= {name: float(values[name]) for name in NUMBERS if name in values}
    values = {name: value for name, value in values.items() if value == value}
    if "fan_in_fan_out" in values:
        values["fan_in_fan_out"] = values["fan_in_fan_out"] == "True"
    values.setdefault("trial_id", values["experiment_name"])
    values.setdefault("status", Status.FINISHED if "final_eval_loss" in values else Status.DIVERGED)
    return values
