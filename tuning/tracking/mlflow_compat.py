"""What is relied on in MLflow without MLflow's promise: texts, limits, and what its pages read.

``tests/contract/test_mlflow_compat.py`` fails if one of them gets another name or meaning, and the bounds in
``pyproject.toml`` keep out an MLflow for which it has not been run.
"""

import json
import logging
import re
from collections.abc import Sequence

MODEL_DEVELOPMENT = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment whose page shows runs; without it the page opens on what is for generative AI."""
DIGEST_LENGTH = 36
"""The longest digest of a data set, in characters; a longer one is refused."""

TABLES = "mlflow.loggedArtifacts"
"""Tag of a run that names those of its artifacts which are shown as tables."""


def silence_raised_errors() -> None:
    """Have MLflow not log a database's error that it raises as well: whoever catches it says it."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def status_in(message: str) -> int | None:
    """Return the HTTP status of an answer that was no JSON; None if the text of the error has none.

    An error's own status is no way to it: MLflow has names for some, and makes 500 of the others.
    """
    told = re.search(r"failed with error code (\d{3})", message)
    return int(told[1]) if told else None


def with_table(tag: str | None, file: str) -> str:
    """Return the value of ``TABLES`` with another table in it.

    Args:
        tag: The value so far; None if there is none.
        file: Path of the artifact. It has columns and data as pandas' ``to_json(orient="split", index=False)`` does.
    """
    table, tables = {"path": file, "type": "table"}, json.loads(tag or "[]")
    return json.dumps(tables if table in tables else [*tables, table])


def shared_view(name: str, runs: str, order_by: str, columns: Sequence[str]) -> tuple[str, str]:
    """Return the tag, its name and its value, by which an experiment offers a view of its table.

    A user can make one with a button; there is no function for it.

    Args:
        name: Of the view, as ``runs_page`` takes it.
        runs: Filter of the runs that are shown.
        order_by: Column, the smallest value first.
        columns: Those that are shown, such as ``metrics.`loss```.
    """
    view = {"searchFilter": runs, "orderByKey": order_by, "orderByAsc": True, "selectedColumns": columns}
    return f"mlflow.sharedViewState.{name}", json.dumps(view)


def runs_page(experiment: str, view: str) -> str:
    """Return the end of the address at which an MLflow UI shows an experiment's runs in a shared view.

    It names the kind of work, too: without that a browser that is new to MLflow opens on pages for generative AI,
    which are empty.
    """
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={view}"
