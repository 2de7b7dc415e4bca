"""What a run leaves of every trial."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from analysis.results.atomic_write import replace_text, replacing_file
from analysis.results.rows import ResultRow

PICTURE = "ranks.png"


def write(run_dir: Path, rows: Sequence[ResultRow], check: Callable[[], None]) -> None:
    """Write ``trials/ID/allocation.json`` and ``ranks.png`` for every trial that has none yet.

    A picture takes a quarter of a second, and many trials have the same one.

    Args:
        run_dir: The folder of the run.
        rows: Its trials.
        check: Called before each; raises if there is no time for more.
    """
    drawn: dict[tuple[str, str], Path] = {}
    for row in rows:
        check()
        folder = trial_folder(run_dir, row)
        folder.mkdir(parents=True, exist_ok=True)
        if row.ranks is not None and not (folder / PICTURE).exists():
            allocation = {"ranks": row.ranks, "alphas": row.alphas}
            replace_text(folder / "allocation.json", json.dumps(allocation, indent=1) + "\n")
            key = (row.strategy, json.dumps(row.ranks, sort_keys=True))
            with replacing_file(folder / PICTURE) as aside:
                if key in drawn:
                    shutil.copyfile(drawn[key], aside)
                else:
                    draw(row.strategy, row.ranks, aside)
            drawn[key] = folder / PICTURE


def trial_folder(run_dir: Path, row: ResultRow) -> Path:
    """Return where a trial's own files lie."""
    return run_dir / "trials" / row.trial_id


def draw(strategy: str, ranks: Mapping[str, int], path: Path) -> None:
    """Write the picture of an allocation."""
    from analysis.report import drawing, plots  # here: they load Matplotlib, and no trial waits for that

    drawing.save(plots.heatmaps({strategy: ranks}), path, "png")
