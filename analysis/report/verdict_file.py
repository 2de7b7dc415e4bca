"""``verdict.json``: the answer of a search for programs. ``AGENTS.md`` describes its keys, which stay as they are."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.results.atomic_write import replace_text
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.results.trial_config import Phase
from analysis.stats.assessment import SearchAssessment
from analysis.stats.looks import looks_of
from analysis.stats.outlook import lacks
from analysis.stats.recommendation import Choice, recommend
from analysis.stats.sizes import Sizes
from analysis.stats.statistics import Paired
from analysis.stats.verdicts import Verdict, params_of

NAME, SCHEMA_VERSION = "verdict.json", 2
EXIT_STATUSES = {Choice.ADAPTIVE: 0, Choice.PLAIN: 10, Choice.UNDECIDED: 11}
"""Of ``python -m analysis RUN --verdict``. A search's own exit status is about its run."""


def content(assessment: SearchAssessment, info: RunInfo) -> dict[str, Any]:
    """Return what the file has; whatever is unknown is null, and no number is NaN."""
    recommendation = recommend(assessment)
    return {
        "schema_version": SCHEMA_VERSION,
        "search_id": info.search_id or None,
        "verdict": str(recommendation.choice),
        "exit_status": EXIT_STATUSES[recommendation.choice],
        "sentences": list(recommendation.sentences),
        "margin": assessment.margin,
        "margin_asked": assessment.margin_asked,
        "visible": _number(recommendation.visible),
        "recommended": None if recommendation.run is None else _run(recommendation.run),
        "reference": assessment.reference if assessment.plain_runs else None,
        "plain_lora": _means(assessment.plain_runs),
        "sizes": [] if assessment.sizes is None else _sizes(assessment.sizes),
        "per_doubling": None if assessment.sizes is None else _gain(assessment.sizes.gain),
        "strategies": [_of(verdict, assessment) for verdict in assessment.verdicts],
    }


def write(assessment: SearchAssessment, info: RunInfo, folder: Path) -> None:
    """Write the file beside a report; it is whole or not there."""
    replace_text(folder / NAME, text(assessment, info) + "\n")


def text(assessment: SearchAssessment, info: RunInfo) -> str:
    """Return the file's content as JSON."""
    return json.dumps(content(assessment, info), indent=1, allow_nan=False)


def _run(run: ResultRow) -> dict[str, Any]:
    return {
        "experiment_name": run.experiment_name,
        "strategy": run.strategy,
        "confirmed": run.phase == Phase.CONFIRM,
        "seed": run.seed,
        "learning_rate": _number(run.learning_rate),
        "parameters": run.trainable_parameters,
        "eval_loss": _number(run.final_eval_loss),
        "test_loss": _number(run.test_loss),
        "ranks": None if run.ranks is None else dict(run.ranks),
    }


def _sizes(sizes: Sizes) -> list[dict[str, Any]]:
    return [
        {"times": 2**size, "seeds": len(runs), **_means(runs)}
        for size, runs in zip(sizes.doublings, sizes.runs, strict=True)
    ]


def _gain(gain: Paired) -> dict[str, Any]:
    return {
        "gain": _number(gain.mean),
        "interval": None if gain.interval is None else list(map(_number, gain.interval)),
    }


def _of(verdict: Verdict, assessment: SearchAssessment) -> dict[str, Any]:
    """Return what is known of a strategy."""
    judged, worth = _judged(verdict, assessment.confirmed[verdict.strategy]), assessment.worth.get(verdict.strategy)
    return {
        **judged,
        "worth": None if worth is None else {**asdict(worth), "sentence": assessment.worth_in_words(verdict.strategy)},
    }


def _judged(verdict: Verdict, runs: Sequence[ResultRow]) -> dict[str, Any]:
    return {
        "strategy": verdict.strategy,
        "answer": verdict.answer,
        "reads": verdict.reads,
        "beats": list(verdict.tried.beaten),
        "does_not_beat": list(verdict.tried.unbeaten),
        "not_tried": list(verdict.tried.missing),
        "difference": _number(verdict.pairs.mean),
        "interval": None if verdict.pairs.interval is None else list(map(_number, verdict.pairs.interval)),
        "seeds": verdict.pairs.seeds,
        "seeds_needed": verdict.needed,
        "level": verdict.pairs.level,
        "lacks": lacks(verdict, looks_of(runs)),
        "diverged": verdict.diverged,
        "failed": verdict.failed,
        **_means(runs),
    }


def _means(runs: Sequence[ResultRow]) -> dict[str, Any]:
    losses = [row.test_loss for row in runs if row.test_loss is not None]
    return {"test_loss": _number(sum(losses) / len(losses)) if losses else None, "parameters": params_of(runs)}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
