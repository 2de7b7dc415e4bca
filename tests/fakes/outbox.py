"""An outbox of a run's events, of which nothing has been carried: those of one trial's life."""

from pathlib import Path
from typing import Any

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from tuning.tracking.events import Tracking
from tuning.tracking.mlflow_client import PARENT, now_ms
from tuning.tracking.outbox import OUTBOX, Outbox, Target

CONFIG = TrialConfig("baseline", "t1", learning_rate=0.1, seed=0)


def begin(sink: Any) -> None:
    """Say that a search begins."""
    tags = {"kind": "search", "status": "running"}
    sink.put("start", PARENT, name="search", params={"a": 1}, tags=tags, time_ms=now_ms())


def end(sink: Any) -> None:
    """Say that it ends."""
    sink.put("end", PARENT, status="FINISHED", tags={"status": "finished"}, time_ms=now_ms())


def one_life(sink: Any) -> None:
    """Say what a search of one trial says: seven lines with the one that says where they go."""
    tracking = Tracking(sink)
    begin(sink)
    tracking.started(CONFIG)
    tracking.reported("t1", {"step": 5, "eval_loss": 2.0, "train_loss": float("nan")})
    tracking.reported("t1", {"step": 10, "eval_loss": 1.0})
    tracking.ended(ResultRow("t1", "baseline_t1", "baseline", "diverged", error="step 10"))
    end(sink)


def outbox_without_mlflow(run_dir: Path, place: tuple[str, str | None]) -> Path:
    """Write an outbox of which nothing was carried, for a store and a folder of artifacts."""
    one_life(QuietSink(Outbox(run_dir, Target(*place, run_dir.name))))
    return run_dir / OUTBOX


class QuietSink:
    """A sink that only keeps events."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    def put(self, kind: str, run: str, **given: Any) -> None:
        """Keep an event."""
        self.outbox.append({"kind": kind, "run": run, **given})
