"""What a run leaves beside its report: a folder per trial, and the best adapter."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis import plots, ranking
from analysis.rows import ResultRow
from tuning import harvest


def write(run_dir: Path, rows: Iterable[ResultRow], results: Iterable[Any]) -> None:
    """Write ``trials/ID/allocation.json`` and ``ranks.png`` for every trial, and ``best_adapter/``."""
    rows = list(rows)
    for row in rows:
        folder = trial_folder(run_dir, row)
        folder.mkdir(parents=True)
        if row.ranks is not None:
            allocation = {"ranks": row.ranks, "alphas": row.alphas}
            (folder / "allocation.json").write_text(json.dumps(allocation, indent=1) + "\n")
            plots.rank_heatmap(row.ranks, row.experiment_name, folder / "ranks.png")
    best = ranking.best_run(rows)
    adapter = best and harvest.checkpoint_of(results, best.trial_id)
    if adapter:
        shutil.copytree(adapter, run_dir / "best_adapter")


def trial_folder(run_dir: Path, row: ResultRow) -> Path:
    """Return where a trial's own files lie."""
    return run_dir / "trials" / row.trial_id
