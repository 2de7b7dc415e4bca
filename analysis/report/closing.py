"""The report's sections without pictures: parameter importance, cost, failures, how to reproduce it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.results.markup import code, fenced, inline, table
from analysis.results.rows import MOST_NATS, STATUSES, ResultRow
from analysis.results.run_info import RunInfo, in_words
from analysis.results.trial_config import Status
from analysis.stats import ranking
from analysis.stats.travel import tau


def parameter_importance(info: RunInfo) -> list[str]:
    """Return the importance of each searched parameter; empty if it is unknown."""
    if not info.importance:
        return []
    body = [
        [strategy, name, f"{share:.0%}"]
        for strategy, shares in info.importance.items()
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    return [
        "## What Mattered", "", "How far the best third of a strategy's trials lies apart from all of them in each "
        "parameter, as a share of the sum over its parameters (Optuna's PED-ANOVA), among trials that were trained in "
        "full. Strategies with too few of those to say anything are left out.", "",
        table(body, ("strategy", "parameter", "importance")), "",
    ]  # fmt: skip


def shrinking(info: RunInfo) -> list[str]:
    """Return the winner's test loss at fewer parameters; empty if it was not measured."""
    if not info.shrink:
        return []
    full_loss = info.shrink[0]["test_loss"]
    body = [
        [f"{point['fraction']:.0%}", f"{point['params']:,}", f"{point['test_loss']:.4f}",
         f"{math.expm1(min(point['test_loss'] - full_loss, MOST_NATS)):+.2%}"] for point in info.shrink
    ]  # fmt: skip
    loss_limit = ranking.within(point["test_loss"] for point in info.shrink)
    smallest = min(
        (point for point in info.shrink if point["test_loss"] <= loss_limit), key=lambda point: point["params"]
    )
    return [
        "## Shrinking the Winner", "", "The trained winner with its largest singular values kept, wherever they are, "
        "and the rest cut; nothing is trained again.", "",
        table(body, ("kept", "parameters", "test loss", "perplexity")),
        "", f"The smallest of these within 1 % of the best perplexity has {smallest['params']:,} parameters.", "",
    ]  # fmt: skip


def evidence(info: RunInfo) -> list[str]:
    """Return how far the kinds of evidence agree about which sites matter; empty with fewer than two of the same."""
    kinds = [kind for kind in info.evidence if "/" not in kind]  # the others are components of one kind
    if len(kinds) < 2:
        return []
    sites = [site for site in info.evidence[kinds[0]] if all(site in info.evidence[kind] for kind in kinds)]
    if not sites:
        return []
    values = {kind: [info.evidence[kind][site] for site in sites] for kind in kinds}
    body = [[kind, *(_tau(values[kind], values[other]) for other in kinds)] for kind in kinds]
    return [
        "## Agreement of Evidence", "", f"Kendall's tau between what was measured before training, over {len(sites)} "
        "sites: 1 is the same order of sites, 0 none in common, -1 the opposite.", "",
        table(body, ("", *kinds)), "",
    ]  # fmt: skip


def _tau(values: Sequence[float], others: Sequence[float]) -> str:
    """Return Kendall's tau; a dash where there is none, because one of them is the same at all sites."""
    agreement = tau(values, others)
    return "-" if agreement is None else f"{agreement:+.2f}"


def cost(rows: Sequence[ResultRow], info: RunInfo) -> list[str]:
    """Return the number of trials and their cost, by phase and strategy."""
    lines = ["## Trials and Cost", ""]
    if rows:
        lines += [_cost_table(rows), ""]
    notes = [f"- **Engine:** {inline(info.engine)}"] if info.engine else []
    notes += [f"- **Matrices:** {inline(info.coverage)}"] if info.coverage else []
    if info.always_plain:
        notes += [f"- **Nothing but plain LoRA on these matrices:** {inline(', '.join(info.always_plain))}"]
    notes += _bracket(info.bracket)
    notes += [f"- **Handed out:** {inline(name)}, {inline(in_words(seen))}" for name, seen in info.handed_out.items()]
    notes += [f"- **Resource event:** {inline(event)}" for event in info.resource_events]
    notes += _wall_time(info.seconds)
    restarts = {row.experiment_name: row.restarts for row in rows if row.restarts}
    if restarts:
        total = sum(restarts.values())
        names = ", ".join(code(name) + (f" {count} times" if count > 1 else "") for name, count in restarts.items())
        notes += [f"- **Taken up again after a failure:** {total} restart{'s' if total > 1 else ''}, of {names}"]
    return [*lines, *notes, ""] if notes else lines


def _bracket(trials: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Return by which short trials the learning rate was found that all are searched around."""
    if not trials:
        return []
    losses = ((trial["learning_rate"], trial["eval_loss"]) for trial in trials)
    tried = ", ".join(f"{rate:.2g} {'diverged' if loss is None else f'{loss:.4f}'}" for rate, loss in losses)
    said = f"plain LoRA's evaluation loss in short trials of {trials[0]['steps']:,.0f} steps"
    return [f"- **Learning rate:** {said}: {inline(tried)}"]


def _wall_time(seconds: Mapping[str, float]) -> list[str]:
    """Return where the wall time went but for reports: this one is not finished when it says so."""
    stages = {name.replace("_", " "): value for name, value in seconds.items() if name != "report"}
    parts = ", ".join(f"{inline(name)} {value:,.1f} s" for name, value in stages.items())
    return [f"- **Wall time before the report:** {sum(stages.values()):,.1f} s ({parts})"] if stages else []


def went_wrong(rows: Sequence[ResultRow]) -> list[str]:
    """Return the trials that diverged or failed, with causes; empty without any."""
    bad_rows = [row for row in rows if row.status in {Status.DIVERGED, Status.FAILED}]
    if not bad_rows:
        return []
    causes = [f"- {code(row.experiment_name)} {row.status}: {inline(row.error or 'cause unknown')}" for row in bad_rows]
    return ["## Diverged and Failed", "", *causes, ""]


def _typed(command: str) -> str:
    """Return a command as it is typed: one of a script is noted without ``python``."""
    program = command.split(" ", 1)[0]
    return f"python {command}" if program.endswith(".py") else command


def reproduce(info: RunInfo) -> list[str]:
    """Return the exact command, versions and hashes; empty if the command is unknown."""
    if info.command is None:
        return []
    commands = [_typed(command) for command in (info.command, *info.continued)]
    lines = ["## How to Reproduce", "", *fenced(commands), ""]
    lines += [f"- **Changed on the way, as allowed:** {inline(change)}" for change in info.changes]
    facts = {
        "Code": info.revision,
        "Model": info.model,
        "Its commit": info.model_revision,
        "SHA-256 of its files": info.base_sha256 if info.base_sha256 != info.model else None,
        "Data": info.dataset,
        "Their commit": info.dataset_revision,
        "Used of the data": "; ".join(info.data.get("words", ())),
        "SHA-256 of all texts": info.corpus_sha256,
    }
    lines += [f"- **{name}:** {inline(value)}" for name, value in facts.items() if value]
    if info.versions:
        versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
        lines += [f"- **Versions:** {inline(versions)}"]
    return [
        *lines,
        "- **All choices:** `plan.json` beside this report; `--config plan.json --name NEW` repeats it.",
        "",
    ]


def _cost_table(rows: Sequence[ResultRow]) -> str:
    costs = pd.DataFrame(
        [
            {"phase": row.phase, "strategy": row.strategy, "tokens": row.tokens, "seconds": row.training_time_seconds}
            | {status: int(row.status == status) for status in STATUSES}
            for row in rows
        ]
    )
    grouped = costs.groupby(["phase", "strategy"], sort=False).sum(min_count=1)
    body = [[*group, *_cells(sums)] for group, sums in zip(grouped.index, grouped.to_dict("records"), strict=True)]
    body.append(["all", "", *_cells(costs.drop(columns=["phase", "strategy"]).sum(min_count=1).to_dict())])
    headers = ("phase", "strategy", *STATUSES, "learned tokens", "training time")
    return table(body, headers)


def _cells(sums: Mapping[Any, float]) -> list[str]:
    counts = [f"{sums[status]:.0f}" for status in STATUSES]
    tokens = "" if pd.isna(sums["tokens"]) else f"{sums['tokens']:,.0f}"
    seconds = "" if pd.isna(sums["seconds"]) else f"{sums['seconds']:,.0f} s"
    return [*counts, tokens, seconds]
