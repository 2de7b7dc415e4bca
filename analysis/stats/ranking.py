"""Which rows are comparable and which are best: pure functions over rows."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Status

METRICS = (
    "final_eval_loss",
    "final_perplexity",
    "trainable_parameters",
    "parameter_efficiency",
    "training_time_seconds",
)
LOSSES = ("final_eval_loss", "final_perplexity")
EDGE_FACTOR = 1.1


def usable(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Return the rows that can be ranked: trained to the end, with a loss."""
    return [row for row in rows if row.status == Status.FINISHED and row.final_eval_loss is not None]


def best_run(rows: Iterable[ResultRow]) -> ResultRow | None:
    """Return the usable row of lowest evaluation loss, the first of equals."""
    return min(usable(rows), key=_loss, default=None)


def at_the_edge(rows: Iterable[ResultRow]) -> list[str]:
    """Return the strategies whose best learning rate is about the highest or the lowest of at least five tried."""
    rows = list(rows)
    tried_rates: dict[str, set[float]] = {}
    for row in rows:
        tried_rates.setdefault(row.strategy, set()).update(_learning_rate(row))
    at_edge = []
    for name, row in best_of_each_strategy(rows).items():
        for rate in _learning_rate(row):
            lowest, highest = min(tried_rates[name]), max(tried_rates[name])
            if len(tried_rates[name]) >= 5 and not lowest * EDGE_FACTOR < rate < highest / EDGE_FACTOR:
                at_edge.append(name)
    return at_edge


def best_of_each_strategy(rows: Iterable[ResultRow]) -> dict[str, ResultRow]:
    """Return strategy -> its usable row of lowest evaluation loss; a strategy without one is left out."""
    best: dict[str, ResultRow] = {}
    for row in usable(rows):
        if row.strategy not in best or _loss(row) < _loss(best[row.strategy]):
            best[row.strategy] = row
    return best


def most_efficient(rows: Iterable[ResultRow]) -> ResultRow | None:
    """Return the usable row with the smallest trainable share; of equals, the one of lower loss."""

    def key(row: ResultRow) -> tuple[float, float]:
        return (row.parameter_efficiency or 0.0, _loss(row))

    return min((row for row in usable(rows) if row.parameter_efficiency is not None), key=key, default=None)


def mean_loss(rows: Iterable[ResultRow]) -> float:
    """Return the mean evaluation loss of usable rows; infinite without any."""
    losses = [_loss(row) for row in usable(rows)]
    return sum(losses) / len(losses) if losses else math.inf


def mean_losses(rows: Iterable[ResultRow]) -> dict[str, tuple[float, int]]:
    """Return strategy -> (mean evaluation loss, number of runs) over usable rows, best first."""
    losses: dict[str, list[float]] = {}
    for row in usable(rows):
        losses.setdefault(row.strategy, []).append(_loss(row))
    means = {name: (sum(values) / len(values), len(values)) for name, values in losses.items()}
    return dict(sorted(means.items(), key=lambda item: item[1][0]))


def within(losses: Iterable[float], share: float = 0.01) -> float:
    """Return the loss, in nats per token, whose perplexity is ``share`` above the best."""
    return min(losses) + math.log1p(share)


def frame(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return the metrics as a table; the loss of a trial that did not finish is left out, so fidelities do not mix."""
    columns = ("experiment_name", "strategy", *METRICS)
    table = pd.DataFrame([{name: _cell(row, name) for name in columns} for row in rows], columns=list(columns))
    return table.astype(dict.fromkeys(METRICS, "float64"))


def summary(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return mean and standard deviation of every metric by strategy."""
    grouped = _comparable(rows).groupby("strategy")[list(METRICS)]
    return grouped.agg(["mean", "std"])


def ranked_means(rows: Sequence[ResultRow], metric: str) -> list[tuple[str, float]]:
    """Return (strategy, mean) from the smallest to the largest, unknown ones last."""
    means = _comparable(rows).groupby("strategy")[metric].mean().sort_values(kind="stable", na_position="last")
    return [(str(name), float(value)) for name, value in means.items()]


def _comparable(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return the metrics, NaN for trials that were stopped: their time and size are not comparable."""
    table = frame(rows)
    table.loc[[row.status == Status.STOPPED for row in rows], list(METRICS)] = float("nan")
    return table


def _cell(row: ResultRow, column: str) -> object:
    return None if column in LOSSES and row.status != Status.FINISHED else getattr(row, column)


def _loss(row: ResultRow) -> float:
    if row.final_eval_loss is None:
        raise ValueError(f"{row.trial_id} has no evaluation loss")
    return row.final_eval_loss


def _learning_rate(row: ResultRow) -> list[float]:
    return [] if row.learning_rate is None else [row.learning_rate]
