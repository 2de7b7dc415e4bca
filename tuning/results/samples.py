"""What base, plain LoRA and winner write after prompts of the test split: a host writes, report and MLflow show."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ray.exceptions import RayError

from analysis.results.atomic_write import replace_text
from analysis.results.messages import first_line, masked
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.stats import ranking
from analysis.stats.assessment import SearchAssessment
from analysis.stats.verdicts import PLAIN
from tuning.cluster.hosting import ask
from tuning.tracking import events
from tuning.tracking.mlflow_client import PARENT
from tuning.trials.phases import Run

log = logging.getLogger(__name__)
BASE, PLAIN_LORA = "the base, untouched", "plain LoRA"
TABLE = "samples.json"
"""File of a run folder: the samples as MLflow shows a table."""


def write(run: Run, assessment: SearchAssessment, adapter_of: Callable[[ResultRow], Path | None]) -> str | None:
    """Have a host write with the base, plain LoRA and the winner, note it, and return why it could not.

    It is done where trials were trained: base, Transformers and PEFT are loaded there.

    Args:
        run: The search.
        assessment: What its rows say; there is a run to use.
        adapter_of: Returns the folder of a run's adapter; None if there is none that is whole.

    Raises:
        Stopped: The search is to stop.
    """
    best = assessment.recommended
    assert best is not None
    adapters = {name: folder for name, row in writers(assessment).items() if (folder := adapter_of(row)) is not None}
    try:
        samples, note = ask(run.plan, run.hosts, "continued", {BASE: None, **adapters}, stop=run.stop)
    except RayError as error:
        log.warning("nothing could be written after prompts of the test split", exc_info=True)
        return masked(f"Nothing could be written: {first_line(getattr(error, 'cause', None) or error)}")
    run.record.wrote(best.trial_id, samples, note)
    return None


def writers(assessment: SearchAssessment) -> dict[str, ResultRow]:
    """Return the runs whose adapters write, by the names that the report has for them: plain LoRA's, and the winner."""
    best, plain = assessment.recommended, ranking.best_run(assessment.plain_runs)
    if best is not None and assessment.is_reference(best):
        return {PLAIN_LORA: best}
    runs = {PLAIN_LORA: plain or assessment.best_of_each.get(PLAIN), best.strategy if best else "": best}
    return {name: row for name, row in runs.items() if row is not None}


def told(run: Run, info: RunInfo, best: ResultRow, failure: str | None) -> RunInfo:
    """Return what is known of a run with what was written with its winner, or why nothing was; a table lies beside it.

    Args:
        run: The search.
        info: What is known besides.
        best: The winner.
        failure: As ``write`` returns it.
    """
    samples, note = run.record.samples.get(best.trial_id, ([], failure))
    if samples:
        columns = list(dict.fromkeys(name for sample in samples for name in sample))
        body = [[sample.get(name) for name in columns] for sample in samples]
        table = json.dumps({"columns": columns, "data": body}, ensure_ascii=False)
        replace_text(run.plan.run_dir / TABLE, table + "\n")
    elif note:
        run.observer.warned(note)
    return replace(info, samples=tuple(samples), samples_note=note)


def log_table(sink: events.Sink, run_dir: Path) -> None:
    """Log the table at the search's own run in MLflow, if there is one."""
    if (run_dir / TABLE).is_file():
        sink.put("table", PARENT, path=str(run_dir / TABLE))
