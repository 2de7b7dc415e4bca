"""Carries a search's events to MLflow: the only file that names it, but for ``mlflow_compat``.

Runs are found again by tag, and every event leaves the same if it comes twice.
"""

import errno
import json
import logging
import os
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.results.trial_config import BUDGET_SHARE, Phase, Status
from tuning.tracking import mlflow_compat
from tuning.tracking.outbox import Event, Target
from tuning.tracking.uploader import brief

EXPERIMENT = "lora-rank-search"
TRIAL_TAG, PARENT_TAG = "rank_search.trial_id", "mlflow.parentRunId"
PARENT = "parent"
COLUMNS = (
    "metrics.`eval_loss`", "metrics.`trainable_parameters`", "metrics.`seconds`", "params.`learning_rate`",
    "tags.`strategy`", "tags.`status`",
)  # fmt: skip
"""What every trial of a search has. The test split is for confirmation runs: whoever sorts by it, searches on it."""
OF_BUDGETS = f"params.`{BUDGET_SHARE}`"
"""What those have besides that search budgets, too."""
LOCAL = "sqlite:///"
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""Errors of a file system that has no hard links: there MLflow makes its tables in place."""
MAY_PASS = (401, 403, 408, 409, 429)  # of 4xx: who asks, or when, may change


class MlflowCarrier:
    """Applies events to MLflow. Every call may raise what MLflow raises."""

    def __init__(self, target: Target) -> None:
        # a repeated request would make a second run in silence; here an answer that was lost is known to be lost
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        mlflow_compat.silence_raised_errors()
        from mlflow import MlflowClient

        _make_database(target.uri)
        self.client, self.search = MlflowClient(tracking_uri=target.uri), target.search
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        kind = mlflow_compat.MODEL_DEVELOPMENT
        self.experiment = (
            experiment.experiment_id
            if experiment
            else self.client.create_experiment(EXPERIMENT, target.artifacts, kind)
        )
        _experiments[self.search] = self.experiment
        self.runs: dict[str, str] = {}
        self.reconcile()

    def apply(self, event: Event) -> None:
        """Carry out one event; of a kind that is not among these nothing is known."""
        by_kind: dict[str, Callable[..., None]] = {
            "start": self._start, "metrics": self._metrics, "artifact": self._artifact, "dataset": self._dataset,
            "table": self._table, "end": self._end, "reopen": self._reopen,
        }  # fmt: skip
        by_kind[event["kind"]](**{key: value for key, value in event.items() if key != "kind"})

    def refusal(self, error: Exception) -> str | None:
        """Return why MLflow will never take an event; None if the error may pass."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            status = mlflow_compat.status_in(error.message) or error.get_http_status_code()
        elif (response := getattr(error, "response", None)) is not None:  # of an artifact's upload
            status = response.status_code
        else:  # a file that is gone, or an event of another version
            lasting = (FileNotFoundError, PermissionError, AttributeError, LookupError, TypeError)
            return brief(error) if isinstance(error, lasting) else None
        return brief(error) if 400 <= status < 500 and status not in MAY_PASS else None

    def reconcile(self) -> None:
        """Find this search's runs; where a lost answer left two of one, keep the one that was carried to."""
        twins: dict[str, list[Any]] = defaultdict(list)
        for run in self._stored():
            twins[run.data.tags[TRIAL_TAG].removeprefix(f"{self.search}/")].append(run)
        children = Counter(run.data.tags.get(PARENT_TAG) for runs in twins.values() for run in runs)

        def carried(run: Any) -> tuple[Any, ...]:
            data, id_ = run.data, run.info.run_id
            mine = id_ in self.runs.values()
            return run.info.lifecycle_stage == "active", mine, children[id_], len(data.params), len(data.tags), id_

        for name, runs in twins.items():
            kept, *others = sorted(runs, key=carried, reverse=True)
            self.runs[name] = kept.info.run_id
            for other in others:
                if other.info.lifecycle_stage == "active":
                    self.client.delete_run(other.info.run_id)

    def _stored(self) -> list[Any]:
        from mlflow.entities import ViewType

        mine, runs, token = f"tags.`{TRIAL_TAG}` LIKE '{self.search}/%'", [], None
        while token != "":
            page = self.client.search_runs([self.experiment], mine, ViewType.ALL, max_results=1000, page_token=token)
            runs += page
            token = page.token or ""
        return [run for run in runs if run.data.tags[TRIAL_TAG].startswith(f"{self.search}/")]

    def _start(
        self, run: str, name: str, params: dict[str, Any], tags: dict[str, str], time_ms: int, parent: str = PARENT
    ) -> None:
        from mlflow.entities import Param

        if run == PARENT:
            self._share_view("params" in str(params.get("objective")))
        if run in self.runs:
            self._complete(run, name, tags | self._place(run, parent))
        else:
            self._create(run, name, tags, time_ms, parent)
        self.client.log_batch(self.runs[run], params=[Param(key, str(value)) for key, value in params.items()])

    def _share_view(self, of_budgets: bool) -> None:
        """Leave a view of the search's trials: by default MLflow's table has no column for a metric or parameter."""
        columns = (*COLUMNS, OF_BUDGETS) if of_budgets else COLUMNS
        trials = f"tags.`{TRIAL_TAG}` LIKE '{self.search}/%' AND tags.phase = '{Phase.SEARCH}'"
        key, view = mlflow_compat.shared_view(self.search, trials, "metrics.`eval_loss`", columns)
        self.client.set_experiment_tag(self.experiment, key, view)

    def _complete(self, run: str, name: str, tags: dict[str, str]) -> None:
        """Give a run what it would have been created with; what happened to it since stays."""
        stored = self.client.get_run(self.runs[run])
        if stored.info.run_name != name:
            self.client.update_run(stored.info.run_id, name=name)
        self._tag(run, {key: value for key, value in tags.items() if key not in stored.data.tags})

    def _create(self, run: str, name: str, tags: dict[str, str], time_ms: int, parent: str = PARENT) -> str:
        tags = tags | self._place(run, parent)
        self.runs[run] = self.client.create_run(self.experiment, time_ms, tags, name).info.run_id
        return self.runs[run]

    def _place(self, run: str, parent: str) -> dict[str, str]:
        identity = {TRIAL_TAG: f"{self.search}/{run}"}
        return identity if run == PARENT else identity | {PARENT_TAG: self._id(parent)}

    def _metrics(self, run: str, values: dict[str, float], step: int, time_ms: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, time_ms, step) for key, value in values.items()]
        self.client.log_batch(self._id(run), metrics=metrics)

    def _artifact(self, run: str, path: str, folder: str | None = None, modified: int = 0) -> None:
        if Path(path).is_dir():
            self.client.log_artifacts(self._id(run), path, folder)
        else:
            self.client.log_artifact(self._id(run), path, folder)

    def _table(self, run: str, path: str, modified: int = 0) -> None:
        """Log a file as a table; MLflow's own function would add its rows to those that are there."""
        self._artifact(run, path)
        tag = mlflow_compat.TABLES
        before = self.client.get_run(self._id(run)).data.tags.get(tag)
        self._tag(run, {tag: mlflow_compat.with_table(before, Path(path).name)})

    def _dataset(self, run: str, name: str, digest: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest, source = digest[: mlflow_compat.DIGEST_LENGTH], json.dumps({"name": name})
        dataset = Dataset(name=name, digest=digest, source_type="local", source=source)
        self.client.log_inputs(self._id(run), [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _end(self, run: str, status: str, tags: dict[str, str], time_ms: int) -> None:
        self._tag(run, tags)
        self.client.set_terminated(self._id(run), status, time_ms)

    def _reopen(self, run: str) -> None:
        self._tag(run, {"status": Status.RUNNING})
        self.client.update_run(self._id(run), status="RUNNING")

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self._id(run), tags=[RunTag(key, value[:5000]) for key, value in tags.items()])

    def _id(self, run: str) -> str:
        """Return MLflow's id of a run. One whose start is damaged is made without it, so that the rest has a place."""
        return self.runs.get(run) or self._create(run, run, {}, now_ms())


_experiments: dict[str, str] = {}
"""Search -> MLflow's id of the experiment that it is in, of searches that this process has reached MLflow for."""


def _make_database(uri: str) -> None:
    """Make a local store's database aside, and put it into place whole.

    MLflow takes seconds to make its tables; were the process killed meanwhile, it would refuse what is there for good.
    """
    path = Path(uri.removeprefix(LOCAL))
    if not uri.startswith(LOCAL) or path.exists():
        return
    from mlflow import MlflowClient

    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        MlflowClient(tracking_uri=f"{LOCAL}{aside}").search_experiments(max_results=1)
        os.link(aside, path)
    except OSError as error:
        if error.errno not in NO_LINKS and not isinstance(error, FileExistsError):  # another search was faster
            raise
    finally:
        aside.unlink(missing_ok=True)


def page(search: str) -> str | None:
    """Return where an MLflow UI shows a search's trials, as the end of its address; None if MLflow never got any."""
    experiment = _experiments.get(search)
    return mlflow_compat.runs_page(experiment, search) if experiment else None


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow wants them."""
    return int(time.time() * 1000)
