"""The report's first section: what to use, how sure that is, what it is worth, and how to load it."""

import math
from collections.abc import Sequence

from analysis.report import verdict_section
from analysis.report.base_code import IMPORTS, base_code
from analysis.results.markup import Markdown, fenced, inline, table
from analysis.results.rows import MOST_NATS, ResultRow
from analysis.results.run_info import RunInfo
from analysis.results.run_info import in_words as load_in_words
from analysis.results.trial_config import Phase
from analysis.stats.assessment import SearchAssessment
from analysis.stats.ranking import best_run
from analysis.stats.recommendation import Recommendation, ranks_in_words, recommend
from analysis.stats.verdicts import PLAIN, in_words, params_of

ADAPTER = "best_adapter"
"""The folder of a run that has the adapter to use."""
BUNDLED = {"bundled": "trainables/models/bundled"}
LOSSES = {Phase.CONFIRM: "test_loss", Phase.SEARCH: "eval_loss"}
HEADERS = {Phase.CONFIRM: "test loss", Phase.SEARCH: "evaluation loss"}


def section(assessment: SearchAssessment, info: RunInfo, figure: Sequence[str] = ()) -> list[str]:
    """Return the section.

    Args:
        assessment: What the rows of the search say.
        info: What the report shows of the run and its rows do not have.
        figure: Lines of the figure of differences; empty without one.
    """
    recommendation = recommend(assessment)
    use, *others = map(inline, [*recommendation.sentences, *filter(None, [verdict_section.scope(info.coverage)])])
    lines = ["## Answer", "", _about(assessment, info), "", f"**{use}** {' '.join(others)}", ""]
    if assessment.sizes and (rank := assessment.sizes.sentences(assessment.margin)):
        lines += [f"**What rank is worth here:** {' '.join(rank)}", ""]
    if (run := recommendation.run) is None:
        return lines
    return [*lines, _table(assessment, info, recommendation, run), "", *figure, *_loading(info), ""]


def _about(assessment: SearchAssessment, info: RunInfo) -> str:
    """Return the line on model, data and budget; what is unknown is left out."""
    examples = "" if info.train_examples is None else f", {info.train_examples:,} training examples"
    plain = best_run([row for row in assessment.rows if row.strategy == PLAIN and row.budget_share in {None, 1.0}])
    same = f", the same as plain LoRA of {ranks_in_words(plain)}" if plain is not None and plain.ranks else ""
    facts = {
        "Model": info.model,
        "Data": info.dataset and f"{info.dataset}{examples}",
        "Budget": None if info.budget_params is None else f"{info.budget_params:,} trainable parameters{same}",
    }
    return " · ".join(f"**{name}:** {inline(value)}" for name, value in facts.items() if value)


def _table(assessment: SearchAssessment, info: RunInfo, recommendation: Recommendation, run: ResultRow) -> str:
    phase = Phase.SEARCH if run.phase == Phase.SEARCH else Phase.CONFIRM
    base_loss = info.base_losses.get(LOSSES[phase])
    body = [] if base_loss is None else [["the base, untouched", *_losses(base_loss), "0", ""]]
    others = _confirmed(assessment, recommendation, run) if phase == Phase.CONFIRM else _single(assessment, run)
    headers = ("", HEADERS[phase], "perplexity", "parameters", "training time")
    return table([*body, *others], headers)


def _confirmed(assessment: SearchAssessment, recommendation: Recommendation, run: ResultRow) -> list[list[str]]:
    """Return a line for plain LoRA and one for the winner; without one, for what came nearest."""
    plain = assessment.plain_runs
    body = [_mean_line(f"{in_words(plain[0])}, {ranks_in_words(plain[0])}", plain)]
    if (verdict := recommendation.verdict) is None:
        return body
    runs = assessment.confirmed[verdict.strategy]
    wins = not assessment.is_reference(run)
    name = f"{verdict.strategy}, {ranks_in_words(run)}" if wins else f"{verdict.strategy}: {verdict.answer}"
    body.append(_mean_line(name, runs))
    used = body[-1] if wins else body[0]
    used[0] = Markdown(f"**{inline(used[0])}**")
    return body


def _single(assessment: SearchAssessment, run: ResultRow) -> list[list[str]]:
    plain = assessment.best_of_each.get(PLAIN)
    singles = {row.trial_id: row for row in (plain, run) if row is not None}
    return [
        [f"best single run of {in_words(row)}, {ranks_in_words(row)}",
         *_losses(row.final_eval_loss), _size(row.trainable_parameters), _seconds([row])]
        for row in singles.values()
    ]  # fmt: skip


def _mean_line(name: str, runs: Sequence[ResultRow]) -> list[str]:
    losses = [row.test_loss for row in runs if row.test_loss is not None]
    mean = sum(losses) / len(losses) if losses else None
    return [name, *_losses(mean), _size(params_of(runs)), _seconds(runs)]


def _losses(loss: float | None) -> list[str]:
    return (
        ["", ""]
        if loss is None or not math.isfinite(loss)
        else [f"{loss:.4f}", f"{math.exp(min(loss, MOST_NATS)):.2f}"]
    )


def _size(params: int | None) -> str:
    return "" if params is None else f"{params:,}"


def _seconds(runs: Sequence[ResultRow]) -> str:
    times = [row.training_time_seconds for row in runs if row.training_time_seconds is not None]
    return f"{sum(times) / len(times):,.1f} s" if times else ""


def _loading(info: RunInfo) -> list[str]:
    """Return the code that loads the adapter; if that could not be verified, where it is instead, and why."""
    if info.handed_out and ADAPTER not in info.handed_out:
        return [
            f"Its adapter is not to be used: {inline(name)}, {inline(load_in_words(seen))}."
            for name, seen in info.handed_out.items()
        ]
    base = "BASE" if info.model is None else BUNDLED.get(info.model, info.model)
    source = [
        IMPORTS,
        *base_code(base, info.model_revision, info),
        f"model = peft.PeftModel.from_pretrained(base, {ADAPTER!r})",
    ]
    return fenced(source, "python")
