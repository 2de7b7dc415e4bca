"""What a run leaves beside its report: a folder per trial, and the best adapter."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis import plots
from analysis.rows import ResultRow


def write(run_dir: Path, rows: Sequence[ResultRow], adapters: Mapping[str, Path], best: ResultRow | None) -> None:
    """Write ``trials/ID/allocation.json`` and ``ranks.png`` for every trial, and ``best_adapter/``.

    Args:
        run_dir: The run's folder.
        rows: All trials.
        adapters: Trial id -> folder of its adapter.
        best: The run to use.
    """
    for row in rows:
        folder = trial_folder(run_dir, row)
        folder.mkdir(parents=True)
        if row.ranks is not None:
            allocation = {"ranks": row.ranks, "alphas": row.alphas}
            (folder / "allocation.json").write_text(json.dumps(allocation, indent=1) + "\n")
            plots.save(plots.heatmaps({row.experiment_name: row.ranks}), folder / "ranks.png")
    if best is not None and best.trial_id in adapters:
        shutil.copytree(adapters[best.trial_id], run_dir / "best_adapter")


def trial_folder(run_dir: Path, row: ResultRow) -> Path:
    """Return where a trial's own files lie."""
    return run_dir / "trials" / row.trial_id
