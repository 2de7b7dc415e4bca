"""Ray results in, rows out. The only reader of Ray's result objects."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from analysis.rows import ResultRow

HISTORY = ("step", "train_loss", "eval_loss", "seconds")
STATUSES = {"finished": "finished", "diverged": "diverged", "running": "stopped"}


def rows_from(results: Iterable[Any]) -> list[ResultRow]:
    """Return one row per trial, in the order in which they were made."""
    return [row_from(result) for result in results]


def row_from(result: Any) -> ResultRow:
    """Turn one Ray ``Result`` into a row; what is unknown is None."""
    last: dict[str, Any] = result.metrics or {}
    config = dict(result.config or {})
    status = status_of(last, result.error is not None)
    allocation = json.loads(last.get("allocation") or "{}")
    loss = _finite(last.get("eval_loss")) if status in {"finished", "stopped"} else None
    trial_id = last.get("trial_id") or Path(result.path).name
    return ResultRow(
        trial_id=trial_id,
        experiment_name=experiment_name(config, trial_id),
        phase="search",
        strategy=config["strategy"],
        status=status,
        seed=config.get("seed"),
        config=config,
        ranks=allocation.get("ranks"),
        alphas=allocation.get("alphas"),
        fan_in_fan_out=last.get("fan_in_fan_out"),
        trainable_parameters=last.get("trainable_parameters"),
        parameter_efficiency=last.get("parameter_efficiency"),
        final_eval_loss=loss,
        final_perplexity=math.exp(loss) if loss is not None and loss < 700 else None,
        test_loss=_finite(last.get("test_loss")),
        training_time_seconds=_finite(last.get("seconds")),
        tokens=last.get("tokens"),
        error=last.get("error") or _cause(result.error),
        history=_history(result),
    )


def experiment_name(config: Mapping[str, Any], trial_id: str) -> str:
    """Return a trial's name everywhere: in Ray, MLflow and the report."""
    return str(config.get("official") or f"{config['strategy']}_{trial_id}")


def status_of(last: Mapping[str, Any], failed: bool) -> str:
    """Return how a trial ended: one that still ran at its last report was stopped by the scheduler."""
    return "failed" if failed else STATUSES.get(last.get("status", ""), "failed")


def checkpoint_of(results: Iterable[Any], trial_id: str) -> Path | None:
    """Return the folder of a trial's last adapter, or None if it left none."""
    for result in results:
        if (result.metrics or {}).get("trial_id") == trial_id and result.checkpoint is not None:
            return Path(result.checkpoint.path) / "session" / "adapter"
    return None


def _history(result: Any) -> tuple[dict[str, Any], ...]:
    frame = result.metrics_dataframe
    if frame is None:
        return ()
    columns = [name for name in HISTORY if name in frame]
    return tuple({name: _finite(value) for name, value in row.items()} for row in frame[columns].to_dict("records"))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _cause(error: BaseException | None) -> str | None:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] if error else []
    return lines[-1] if lines else None
