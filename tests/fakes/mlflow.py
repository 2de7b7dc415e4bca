"""An MLflow in memory: a ``Carrier`` that keeps what events say, as MLflow would."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tuning.tracking.mlflow_client import PARENT
from tuning.tracking.mlflow_compat import DIGEST_LENGTH
from tuning.tracking.outbox import Event, Target
from tuning.tracking.uploader import Sink


@dataclass
class StoredRun:
    """A run as MLflow has it; ``metrics`` is name -> step -> value."""

    name: str
    parent: str | None
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    artifacts: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    datasets: set[tuple[str, str]] = field(default_factory=set)


class FakeCarrier:
    """Applies events to a store that all searches of a process share.

    Attributes:
        stores: Search -> run -> what is stored of it.
    """

    stores: ClassVar[dict[str, dict[str, StoredRun]]] = {}

    def __init__(self, target: Target) -> None:
        self.runs = self.stores.setdefault(target.search, {})

    def apply(self, event: Event) -> None:
        facts = {name: value for name, value in event.items() if name not in {"kind", "run"}}
        getattr(self, f"_{event['kind']}")(event["run"], **facts)

    def refusal(self, error: Exception) -> str | None:
        return f"{type(error).__name__}: {error}"

    def reconcile(self) -> None:
        pass

    def _run(self, run: str, parent: str = PARENT) -> StoredRun:
        return self.runs.setdefault(run, StoredRun(run, None if run == PARENT else parent))

    def _start(self, run: str, name: str, params: dict, tags: dict, time_ms: int, parent: str = PARENT) -> None:
        stored = self._run(run, parent)
        stored.name = name
        stored.tags = tags | stored.tags
        stored.params |= {key: str(value) for key, value in params.items()}

    def _metrics(self, run: str, values: dict, step: int, time_ms: int) -> None:
        for name, value in values.items():
            self._run(run).metrics.setdefault(name, {})[step] = value

    def _artifact(self, run: str, path: str, folder: str | None = None, modified: int = 0) -> None:
        inside = sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]
        self._run(run).artifacts |= {f"{folder}/{entry.name}" if folder else entry.name for entry in inside}

    def _table(self, run: str, path: str, modified: int = 0) -> None:
        self._artifact(run, path)
        self._run(run).tables.add(Path(path).name)

    def _dataset(self, run: str, name: str, digest: str) -> None:
        self._run(run).datasets.add((name, digest[:DIGEST_LENGTH]))

    def _end(self, run: str, status: str, tags: dict, time_ms: int) -> None:
        stored = self._run(run)
        stored.status = status
        stored.tags |= tags

    def _reopen(self, run: str) -> None:
        stored = self._run(run)
        stored.status = "RUNNING"
        stored.tags["status"] = "running"


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, StoredRun]]:
    """Have searches of this process log to memory, and return where."""
    from tuning.tracking import events

    open_sink = events.open_sink

    def opened(*facts: Any, **named: Any) -> Sink:
        sinks.append(open_sink(*facts, **named))
        return sinks[-1]

    monkeypatch.setattr(events, "MlflowCarrier", FakeCarrier)
    monkeypatch.setattr(events, "open_sink", opened)
    monkeypatch.setattr(FakeCarrier, "stores", {})
    sinks.clear()
    return FakeCarrier.stores


def cut_off() -> None:
    """End what carries events, as it ends with the process of a search that is killed."""
    for sink in sinks:
        sink.abandoned.set()
        sink.wake.set()
        sink.thread.join()


sinks: list[Sink] = []
"""Of the searches of this process that log to memory."""
