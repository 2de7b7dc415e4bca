"""What is logged to MLflow, and the only file that names it.

Whatever happens becomes an event in the run folder's spool at once, and MLflow gets it when it can: an MLflow that is
down, slow or late gets the rest by ``python -m tuning.tracking replay RUN_DIR``. Runs are found again by tag, and every
event leaves the same if it comes twice.
"""

import json
import logging
import math
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from filelock import Timeout

from analysis.rows import ResultRow
from trainables.spec import BUDGET_SHARE
from tuning.lives import Lives
from tuning.sink import Sink as Sink
from tuning.sink import attempt, brief, deliver
from tuning.spool import SPOOL, Event, Spool, Target, UnknownTarget, lock

EXPERIMENT = "lora-rank-search"
TRIAL_TAG, PARENT_TAG = "rank_search.trial_id", "mlflow.parentRunId"
PARENT = "parent"
METRICS = (  # the first is what MLflow's comparison draws unless told otherwise
    "eval_loss", "train_loss", "test_loss", "perplexity", "tokens", "tokens_per_second", "trainable_parameters",
    "parameter_efficiency", "peak_bytes", "seconds",
)  # fmt: skip
COLUMNS = (
    "metrics.`eval_loss`", "metrics.`test_loss`", "metrics.`trainable_parameters`", "metrics.`seconds`",
    "params.`learning_rate`", f"params.`{BUDGET_SHARE}`", "tags.`strategy`", "tags.`status`",
)  # fmt: skip
END = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
MAY_PASS = (401, 403, 408, 409, 429)  # of 4xx: who asks, or when, may change


class MlflowCarrier:
    """Applies events to MLflow. Every call may raise what MLflow raises."""

    def __init__(self, target: Target) -> None:
        # a repeated request would make a second run in silence; here an answer that was lost is known to be lost
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.client, self.search = MlflowClient(tracking_uri=target.uri), target.search
        found = self.client.get_experiment_by_name(EXPERIMENT)
        # without the tag the UI opens on its pages for generative AI
        kind = {"mlflow.experimentKind": "custom_model_development"}
        self.experiment = (
            found.experiment_id if found else self.client.create_experiment(EXPERIMENT, target.artifacts, kind)
        )
        _experiments[self.search] = self.experiment
        self.runs: dict[str, str] = {}
        self.reconcile()

    def apply(self, event: Event) -> None:
        """Carry out one event."""
        getattr(self, "_" + event["kind"])(**{key: value for key, value in event.items() if key != "kind"})

    def refusal(self, error: Exception) -> str | None:
        """Return why MLflow will never take an event; None if the error may pass."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            told = re.search(r"failed with error code (\d{3})", error.message)  # not every status has a name there
            status = int(told[1]) if told else error.get_http_status_code()
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

        mine, found, token = f"tags.`{TRIAL_TAG}` LIKE '{self.search}/%'", [], None
        while token != "":
            page = self.client.search_runs([self.experiment], mine, ViewType.ALL, max_results=1000, page_token=token)
            found += page
            token = page.token or ""
        return [run for run in found if run.data.tags[TRIAL_TAG].startswith(f"{self.search}/")]

    def _start(
        self, run: str, name: str, params: dict[str, Any], tags: dict[str, str], time_ms: int, parent: str = PARENT
    ) -> None:
        from mlflow.entities import Param

        if run == PARENT:
            self._share_view()
        if run in self.runs:
            self._complete(run, name, tags | self._place(run, parent))
        else:
            self._create(run, name, tags, time_ms, parent)
        self.client.log_batch(self.runs[run], params=[Param(key, str(value)) for key, value in params.items()])

    def _share_view(self) -> None:
        """Leave a view of the search's trials: by default MLflow's table has no column for a metric or parameter."""
        view = {
            "searchFilter": f"tags.`{TRIAL_TAG}` LIKE '{self.search}/%' AND tags.phase = 'search'",
            "orderByKey": "metrics.`eval_loss`",
            "orderByAsc": True,
            "selectedColumns": COLUMNS,
        }
        self.client.set_experiment_tag(self.experiment, f"mlflow.sharedViewState.{self.search}", json.dumps(view))

    def _complete(self, run: str, name: str, tags: dict[str, str]) -> None:
        """Give a run what it would have been created with; what happened to it since stays."""
        known = self.client.get_run(self.runs[run])
        if known.info.run_name != name:
            self.client.update_run(known.info.run_id, name=name)
        self._tag(run, {key: value for key, value in tags.items() if key not in known.data.tags})

    def _create(self, run: str, name: str, tags: dict[str, str], time_ms: int, parent: str = PARENT) -> str:
        tags = tags | self._place(run, parent)
        self.runs[run] = self.client.create_run(self.experiment, time_ms, tags, name).info.run_id
        return self.runs[run]

    def _place(self, run: str, parent: str) -> dict[str, str]:
        own = {TRIAL_TAG: f"{self.search}/{run}"}
        return own if run == PARENT else own | {PARENT_TAG: self._id(parent)}

    def _metrics(self, run: str, values: dict[str, float], step: int, time_ms: int) -> None:
        from mlflow.entities import Metric

        found = [Metric(key, value, time_ms, step) for key, value in values.items()]
        self.client.log_batch(self._id(run), metrics=found)

    def _artifact(self, run: str, path: str, folder: str | None = None, modified: int = 0) -> None:
        if Path(path).is_dir():
            self.client.log_artifacts(self._id(run), path, folder)
        else:
            self.client.log_artifact(self._id(run), path, folder)

    def _dataset(self, run: str, name: str, digest: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"name": name}))
        self.client.log_inputs(self._id(run), [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _end(self, run: str, status: str, tags: dict[str, str], time_ms: int) -> None:
        self._tag(run, tags)
        self.client.set_terminated(self._id(run), status, time_ms)

    def _reopen(self, run: str) -> None:
        self._tag(run, {"status": "running"})
        self.client.update_run(self._id(run), status="RUNNING")

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self._id(run), tags=[RunTag(key, value[:5000]) for key, value in tags.items()])

    def _id(self, run: str) -> str:
        """Return MLflow's id of a run. One whose start is damaged is made without it, so that the rest has a place."""
        return self.runs.get(run) or self._create(run, run, {}, now_ms())


_experiments: dict[str, str] = {}
"""Search -> MLflow's id of the experiment that it is in, of searches that this process has reached MLflow for."""


def page(search: str) -> str | None:
    """Return where an MLflow UI shows a search's trials, as the end of its address; None if MLflow never got any.

    It names the view and the kind of work: without the latter a browser that is new to MLflow opens on pages for
    generative AI, which are empty.
    """
    experiment = _experiments.get(search)
    query = f"workflowType=machine_learning&viewStateShareKey={search}"
    return f"/#/experiments/{experiment}/runs?{query}" if experiment else None


def open_sink(run_dir: Path, uri: str, artifacts: str | None, search: str | None = None) -> Sink:
    """Begin to track a search, or go on if the folder has events already.

    Args:
        run_dir: Where the spool lies.
        uri: MLflow's tracking URI.
        artifacts: Where a local MLflow keeps artifacts; None for a server, which decides itself.
        search: What identifies the search in MLflow, whatever its folder is called; default is the folder's name.
    """
    spool = Spool(run_dir, Target(uri, artifacts, search or run_dir.name))
    return Sink(spool, lambda: MlflowCarrier(spool.target))


def remaining(run_dir: Path) -> int:
    """Return how many spooled events MLflow does not have yet."""
    return Spool(run_dir).remaining()


def replay(run_dir: Path) -> tuple[int, int]:
    """Carry what MLflow refused and what it does not have yet, and return how many were carried and how many refused.

    Raises:
        filelock.Timeout: A search or another replay is carrying them.
        UnknownTarget: The folder does not say where MLflow is.
        Exception: What MLflow raised at the first event that did not arrive; what arrived before it is remembered.
    """
    with lock(run_dir):
        spool = Spool(run_dir)
        carrier, lives = MlflowCarrier(spool.target), Lives(spool.events())
        again = [event for event in spool.refused() if not lives.is_past(event)]
        reasons = [attempt(carrier, event) for event in again]
        spool.keep_refused([(event, reason) for event, reason in zip(again, reasons, strict=True) if reason])
        arrived = [deliver(spool, carrier, event, end) for event, end in spool.waiting()]
        carrier.reconcile()
        return reasons.count(None) + sum(arrived), len(spool.refused())


class Tracking:
    """Turns what happens to trials into spooled events: a child run per trial, parameters once, metrics per report."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def started(self, trial_id: str, name: str, config: Mapping[str, Any]) -> None:
        """Open the trial's run; one that was interrupted goes on."""
        strategy = config["strategy"]
        own = dict(config.get(strategy, {}))
        params = {key: value for key, value in config.items() if not isinstance(value, dict)}
        # what every strategy has is one column of MLflow's; its comparison draws the first three in the alphabet, so
        # names of the rest begin with a word that comes after these
        params |= {key: own.pop(key) for key in ("learning_rate", BUDGET_SHARE) if key in own}
        params |= {f"strategy/{strategy}/{key}": value for key, value in own.items()}
        tags = {"strategy": strategy, "status": "running", "phase": config.get("phase", "search")}
        parent = config.get("phase", PARENT)
        self.sink.put("start", trial_id, name=name, params=params, tags=tags, time_ms=now_ms(), parent=parent)

    def open_group(self, name: str) -> None:
        """Open a run under the parent; trials of this phase become its children."""
        self.sink.put("start", name, name=name, params={}, tags={"kind": name, "status": "running"}, time_ms=now_ms())

    def close_group(self, name: str) -> None:
        """Close a group's run."""
        self.sink.put("end", name, status="FINISHED", tags={"status": "finished"}, time_ms=now_ms())

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Log a report; a step that is reported again, by a trial that was restarted, is not."""
        values = {key: float(report[key]) for key in METRICS if _is_number(report.get(key))}
        if values.get("eval_loss", math.inf) < 700:
            values["perplexity"] = math.exp(values["eval_loss"])
        self.sink.put("metrics", trial_id, values=values, step=int(report.get("step", 0)), time_ms=now_ms())

    def ended(self, row: ResultRow) -> None:
        """Close the trial's run."""
        tags = {"status": row.status} | ({"error": row.error} if row.error else {})
        self.sink.put("end", row.trial_id, status=END[row.status], tags=tags, time_ms=now_ms())

    def interrupted(self) -> None:
        """Close every run that is open, the search's own too; those that go on are opened again."""
        self.sink.end_open_runs(now_ms())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow wants them."""
    return int(time.time() * 1000)


@click.group()
def main() -> None:
    """Carry what MLflow missed."""


@main.command("replay")
@click.argument("run_dir", type=click.Path(path_type=Path))
def replay_command(run_dir: Path) -> None:
    """Send the spooled events of RUN_DIR that MLflow does not have yet."""
    if not (run_dir / SPOOL).is_file():
        raise click.UsageError(f"{run_dir}: no {SPOOL} in it; give the folder of a run")
    try:
        carried, refused = replay(run_dir)
    except Timeout as error:
        message = f"{run_dir}: a search or another replay is carrying these events; wait for its end"
        raise click.UsageError(message) from error
    except UnknownTarget as error:
        raise click.UsageError(str(error)) from error
    except Exception as error:
        message = f"MLflow cannot be reached ({brief(error)}); nothing is lost, replay again once it is back"
        raise click.ClickException(message) from error
    click.echo(f"{carried} events carried" + (f", {refused} refused" if refused else ""))


def command() -> int:
    """Run the command; wrong usage is one line and exit status 2, an MLflow that is still away 1."""
    try:
        main.main(standalone_mode=False)
    except click.ClickException as error:
        print(f"Error: {' '.join(error.format_message().split())}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(command())
