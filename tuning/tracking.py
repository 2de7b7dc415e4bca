"""The only file that names MLflow: a sink that never slows, stops or alters a search.

Every event is one line in a spool file in the run folder. A background thread carries the lines to MLflow in order and
remembers how far it came, so an MLflow that is down, slow or late gets everything once it can:
``python -m tuning.tracking replay RUN_DIR``. Runs are found again by tag, so a replay makes no second ones.
"""

import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from analysis.rows import ResultRow
from trainables.spec import BUDGET_SHARE

SPOOL, STATE = "mlflow-spool.jsonl", "mlflow-state.json"
EXPERIMENT = "lora-rank-search"
TRIAL_TAG = "rank_search.trial_id"
PARENT = "parent"
METRICS = (  # the first is what MLflow's comparison draws unless told otherwise
    "eval_loss", "train_loss", "test_loss", "perplexity", "tokens", "tokens_per_second", "trainable_parameters",
    "parameter_efficiency", "peak_bytes", "seconds",
)  # fmt: skip
COLUMNS = (
    "metrics.`eval_loss`", "metrics.`test_loss`", "metrics.`trainable_parameters`", "metrics.`seconds`",
    "params.`learning_rate`", f"params.`{BUDGET_SHARE}`", "tags.`strategy`", "tags.`status`",
)  # fmt: skip
RETRY_SECONDS = 5.0
END = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}


class Carrier:
    """Applies spooled events to an MLflow server. Every call may raise what MLflow raises."""

    def __init__(self, uri: str, artifacts: str | None, search: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.search = search
        found = self.client.get_experiment_by_name(EXPERIMENT)
        self.experiment = found.experiment_id if found else self.client.create_experiment(EXPERIMENT, artifacts)
        self.runs: dict[str, str] = {}

    def apply(self, event: dict[str, Any]) -> None:
        """Carry out one event."""
        getattr(self, "_" + event["kind"])(**{key: value for key, value in event.items() if key != "kind"})

    def _start(
        self, run: str, name: str, params: dict[str, Any], tags: dict[str, str], time_ms: int, parent: str = PARENT
    ) -> None:
        if self._find(run):
            return
        from mlflow.entities import Param

        own = {TRIAL_TAG: f"{self.search}/{run}", **tags}
        if run == PARENT:
            self._share_view()
        else:
            own["mlflow.parentRunId"] = self._run(parent)
        created = self.client.create_run(self.experiment, start_time=time_ms, run_name=name, tags=own)
        self.runs[run] = created.info.run_id
        self.client.log_batch(created.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])

    def _share_view(self) -> None:
        """Leave a view of the search's trials: by default MLflow's table has no column for a metric or parameter."""
        view = {
            "searchFilter": f"tags.`{TRIAL_TAG}` LIKE '{self.search}/%' AND tags.phase = 'search'",
            "orderByKey": "metrics.`eval_loss`",
            "orderByAsc": True,
            "selectedColumns": COLUMNS,
        }
        self.client.set_experiment_tag(self.experiment, f"mlflow.sharedViewState.{self.search}", json.dumps(view))

    def _metrics(self, run: str, values: dict[str, float], step: int, time_ms: int) -> None:
        from mlflow.entities import Metric

        self.client.log_batch(self._run(run), metrics=[Metric(k, v, time_ms, step) for k, v in values.items()])

    def _artifact(self, run: str, path: str, folder: str | None = None) -> None:
        if Path(path).is_dir():
            self.client.log_artifacts(self._run(run), path, folder)
        else:
            self.client.log_artifact(self._run(run), path, folder)

    def _dataset(self, run: str, name: str, digest: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"name": name}))
        self.client.log_inputs(self._run(run), [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _end(self, run: str, status: str, tags: dict[str, str], time_ms: int) -> None:
        for key, value in tags.items():
            self.client.set_tag(self._run(run), key, value[:5000])
        self.client.set_terminated(self._run(run), status, time_ms)

    def _run(self, run: str) -> str:
        found = self._find(run)
        if found is None:
            raise KeyError(f"MLflow has no run for {run}; was its start lost?")
        return found

    def _find(self, run: str) -> str | None:
        if run not in self.runs:
            quoted = f"tags.`{TRIAL_TAG}` = '{self.search}/{run}'"
            for known in self.client.search_runs([self.experiment], quoted, max_results=1):
                self.runs[run] = known.info.run_id
        return self.runs.get(run)


class Sink:
    """Takes events without ever blocking; a thread carries them to MLflow.

    Args:
        run_dir: Where the spool lies; its name identifies the search.
        uri: MLflow's tracking URI.
        artifacts: Where a local MLflow keeps artifacts; None for a server, which decides itself.
    """

    def __init__(self, run_dir: Path, uri: str, artifacts: str | None) -> None:
        self.run_dir, self.uri = run_dir, uri
        self.spool = (run_dir / SPOOL).open("a", encoding="utf-8")
        _write_state(run_dir, {"done_bytes": 0, "uri": uri, "artifacts": artifacts})
        self.wake, self.closing = threading.Event(), threading.Event()
        self.problem: str | None = None
        self.thread = threading.Thread(target=self._carry, name="mlflow-sink", daemon=True)
        self.thread.start()

    def put(self, kind: str, run: str, **fields: Any) -> None:
        """Spool an event."""
        self.spool.write(json.dumps({"kind": kind, "run": run, **fields}, allow_nan=False) + "\n")
        self.spool.flush()
        self.wake.set()

    def close(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the rest and say whether everything arrived."""
        self.spool.close()
        self.closing.set()
        self.wake.set()
        self.thread.join(seconds)
        return remaining(self.run_dir) == 0

    def _carry(self) -> None:
        last = False
        while not last:
            self.wake.wait()
            self.wake.clear()
            last = self.closing.is_set()
            try:
                replay(self.run_dir)
            except Exception as error:
                self._report_once(error)
                self.closing.wait(RETRY_SECONDS)
                self.wake.set()

    def _report_once(self, error: Exception) -> None:
        if self.problem is None:
            self.problem = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            print(f"MLflow at {self.uri} cannot be reached ({self.problem}); the search goes on", file=sys.stderr)


_carriers: dict[tuple[str, str], Carrier] = {}


def replay(run_dir: Path) -> int:
    """Carry all spooled events that MLflow does not have yet, in order, and return how many.

    Raises:
        Exception: What MLflow raised at the first event that did not arrive; the ones before it are remembered as done.
    """
    state = json.loads((run_dir / STATE).read_text())
    key, carried = (state["uri"], run_dir.name), 0
    with (run_dir / SPOOL).open("rb") as spool:
        spool.seek(state["done_bytes"])
        while (line := spool.readline()).endswith(b"\n"):
            if key not in _carriers:
                _carriers[key] = Carrier(state["uri"], state["artifacts"], run_dir.name)
            _carriers[key].apply(json.loads(line))
            state |= {"done_bytes": state["done_bytes"] + len(line), "experiment": _carriers[key].experiment}
            _write_state(run_dir, state)
            carried += 1
    return carried


def remaining(run_dir: Path) -> int:
    """Return how many spooled events MLflow does not have yet."""
    with (run_dir / SPOOL).open("rb") as spool:
        spool.seek(json.loads((run_dir / STATE).read_text())["done_bytes"])
        return sum(1 for _ in spool)


def page(run_dir: Path) -> str | None:
    """Return where an MLflow UI shows a search's trials, as the end of its address; None if MLflow never got any.

    It names the view and the kind of work: without the latter a browser that is new to MLflow opens on pages for
    generative AI, which are empty.
    """
    experiment = json.loads((run_dir / STATE).read_text()).get("experiment")
    query = f"workflowType=machine_learning&viewStateShareKey={run_dir.name}"
    return f"/#/experiments/{experiment}/runs?{query}" if experiment else None


def _write_state(run_dir: Path, state: dict[str, Any]) -> None:
    aside = run_dir / (STATE + ".partial")
    aside.write_text(json.dumps(state))
    aside.replace(run_dir / STATE)


class Tracking:
    """Turns what happens to trials into spooled events: a child run per trial, parameters once, metrics per report."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def started(self, trial_id: str, name: str, config: Mapping[str, Any]) -> None:
        """Open the trial's run."""
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
        """Log a report."""
        values = {key: float(report[key]) for key in METRICS if _is_number(report.get(key))}
        if values.get("eval_loss", math.inf) < 700:
            values["perplexity"] = math.exp(values["eval_loss"])
        self.sink.put("metrics", trial_id, values=values, step=int(report.get("step", 0)), time_ms=now_ms())

    def ended(self, row: ResultRow) -> None:
        """Close the trial's run."""
        tags = {"status": row.status} | ({"error": row.error} if row.error else {})
        self.sink.put("end", row.trial_id, status=END[row.status], tags=tags, time_ms=now_ms())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow wants them."""
    return int(time.time() * 1000)


@click.group()
def main() -> None:
    """Carry what MLflow missed."""


@main.command("replay")
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def replay_command(run_dir: Path) -> None:
    """Send the spooled events of RUN_DIR that MLflow does not have yet."""
    if not (run_dir / SPOOL).is_file():
        raise click.ClickException(f"{run_dir}: no {SPOOL} in it; give the folder of a run")
    click.echo(f"{replay(run_dir)} events carried")


if __name__ == "__main__":
    main()
