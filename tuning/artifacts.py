"""What a run leaves of every trial."""

import json
from collections.abc import Sequence
from pathlib import Path

from analysis import plots
from analysis.rows import ResultRow


def write(run_dir: Path, rows: Sequence[ResultRow]) -> None:
    """Write ``trials/ID/allocation.json`` and ``ranks.png`` for every trial."""
    for row in rows:
        folder = trial_folder(run_dir, row)
        folder.mkdir(parents=True, exist_ok=True)
        if row.ranks is not None:
            allocation = {"ranks": row.ranks, "alphas": row.alphas}
            (folder / "allocation.json").write_text(json.dumps(allocation, indent=1) + "\n")
            plots.save(plots.heatmaps({row.experiment_name: row.ranks}), folder / "ranks.png")


def trial_folder(run_dir: Path, row: ResultRow) -> Path:
    """Return where a trial's own files lie."""
    return run_dir / "trials" / row.trial_id
