"""What a run leaves beside its report: a folder per trial, and the best adapter."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis import plots, ranking
from analysis.rows import ResultRow


def write(run_dir: Path, rows: Sequence[ResultRow], adapters: Mapping[str, Path]) -> None:
    """Write ``trials/ID/allocation.json`` and ``ranks.png`` for every trial, and ``best_adapter/``.

    Args:
        run_dir: The run's folder.
        rows: All trials.
        adapters: Trial id -> folder of its adapter.
    """
    for row in rows:
        folder = trial_folder(run_dir, row)
        folder.mkdir(parents=True)
        if row.ranks is not None:
            allocation = {"ranks": row.ranks, "alphas": row.alphas}
            (folder / "allocation.json").write_text(json.dumps(allocation, indent=1) + "\n")
            plots.rank_heatmap(row.ranks, row.experiment_name, folder / "ranks.png")
    best = ranking.best_run(rows)
    if best is not None and best.trial_id in adapters:
        shutil.copytree(adapters[best.trial_id], run_dir / "best_adapter")


def trial_folder(run_dir: Path, row: ResultRow) -> Path:
    """Return where a trial's own files lie."""
    return run_dir / "trials" / row.trial_id
