"""The Pareto front of loss and parameters: which trials are worth their size. Pure functions over rows."""

from collections.abc import Sequence

from analysis.results import markup
from analysis.results.rows import ResultRow
from analysis.stats.ranking import usable
from analysis.stats.statistics import has_fewer


def measured(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the rows that can be on a front: trained to the end, with a loss and a parameter count."""
    return [row for row in usable(rows) if row.trainable_parameters is not None]


def front(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the measured rows that no other dominates, from the fewest parameters to the lowest loss.

    A row dominates another if it has no more parameters and no more loss, and less of one. Rows that are equal in both
    are on the front together.
    """
    members: list[ResultRow] = []
    for row in sorted(measured(rows), key=point):
        if not members or point(row)[1] < point(members[-1])[1] or point(row) == point(members[-1]):
            members.append(row)
    return members


def point(row: ResultRow) -> tuple[int, float]:
    """Return (parameters, evaluation loss) of a measured row."""
    if row.trainable_parameters is None or row.final_eval_loss is None:
        raise ValueError(f"{row.trial_id} has no parameters or no evaluation loss")
    return row.trainable_parameters, row.final_eval_loss


def sizes_differ(rows: Sequence[ResultRow]) -> bool:
    """Return True if measured rows differ in parameters by what counts as fewer, and not by a budget's remainder."""
    sizes = [point(row)[0] for row in measured(rows)]
    return len(sizes) > 1 and has_fewer(min(sizes), max(sizes))


def table(members: Sequence[ResultRow]) -> str:
    """Return a front as a Markdown table."""
    body = [
        [f"{row.trainable_parameters:,}", f"{row.final_eval_loss:.4f}",
         "" if row.test_loss is None else f"{row.test_loss:.4f}", row.strategy, row.experiment_name] for row in members
    ]  # fmt: skip
    headers = ("parameters", "evaluation loss", "test loss", "strategy", "trial")
    return markup.table(body, headers)
