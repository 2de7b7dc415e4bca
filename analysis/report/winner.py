"""The winner's ranks, as a table and as a configuration to paste."""

import math
from collections.abc import Mapping

from analysis.report import verdict_section
from analysis.report.lora_config import lora_config_code
from analysis.results.markup import code, fenced, inline, table
from analysis.results.rows import MOST_NATS, ResultRow
from analysis.results.trial_config import Phase
from analysis.stats.assessment import SearchAssessment
from analysis.stats.verdicts import listed

REASONS = {
    Phase.SEARCH: "has the lowest evaluation loss of all finished trials; nothing has confirmed it",
    Phase.CONFIRM: "is the run to use: of the strategies that win against plain LoRA, the one of lowest mean "
    "evaluation loss, and of its runs the one of lowest evaluation loss",
}
PLAIN_WINS = "so plain LoRA is recommended, and this is its lowest evaluation loss"
NOT_IN_CONFIG = {
    "eva": "It has the ranks and scales, not the beginning: each A began as the first principal components of its "
    'matrix\'s input, which PEFT makes with `init_lora_weights="eva"`.',
    "adalora": "It has the ranks and scales that the training ended with; it began with higher ranks and pruned them, "
    "which plain LoRA of this configuration does not do.",
    "layer_lr": "It has the ranks and scales, not the learning rates, which were others at each depth: an optimizer "
    "with a group of parameters for each block has them.",
}


def section(assessment: SearchAssessment) -> list[str]:
    """Return the section about the run to use; empty if there is none or its ranks are unknown."""
    best = assessment.recommended
    if best is None or not best.ranks:
        return []
    reason = REASONS[best.phase]
    if best.phase == Phase.CONFIRM and assessment.is_reference(best):
        who = f"only {listed(assessment.nulls_ahead)} wins, a control" if assessment.nulls_ahead else "no strategy wins"
        reason = f"is the run to use: {who}, {PLAIN_WINS}"
    lines = ["## Winner", "", f"{code(best.experiment_name)} {reason}.", ""]
    lines += [f"- **Strategy:** {inline(best.strategy)}", f"- **Evaluation loss:** {best.final_eval_loss:.4f}"]
    if best.test_loss is not None:
        lines += [f"- **Test loss:** {best.test_loss:.4f} (perplexity {math.exp(min(best.test_loss, MOST_NATS)):.2f})"]
    if (difference := verdict_section.difference_in_words(best, assessment)) is not None:
        lines += [f"- **This run alone:** {difference}"]
    if best.trainable_parameters is not None:
        lines += [f"- **Parameters:** {best.trainable_parameters:,}"]
    return [*lines, "", "### Ranks by layer and matrix", "", rank_table(best.ranks), "", *_config_section(best)]


def split_name(name: str) -> tuple[int, str]:
    """Return (layer, matrix): ``transformer.h.3.attn.c_attn`` is layer 3's ``attn.c_attn``."""
    parts = name.split(".")
    index = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return (0, name) if index is None else (int(parts[index]), ".".join(parts[index + 1 :]))


def grid(ranks: Mapping[str, int]) -> tuple[list[int], list[str], list[list[int | None]]]:
    """Return layers, matrices, and the ranks as a row per layer; None where a layer lacks a matrix."""
    cells = {split_name(name): rank for name, rank in ranks.items()}
    layers = sorted({layer for layer, _ in cells})
    matrices = list(dict.fromkeys(matrix for _, matrix in cells))
    return layers, matrices, [[cells.get((layer, matrix)) for matrix in matrices] for layer in layers]


def rank_table(ranks: Mapping[str, int]) -> str:
    """Return a Markdown table, a row per layer and a column per matrix."""
    layers, matrices, cells = grid(ranks)
    body = [[layer, *row] for layer, row in zip(layers, cells, strict=True)]
    return table(body, ["layer", *matrices], numbers=True)


def _config_section(best: ResultRow) -> list[str]:
    ranks, alphas = best.ranks or {}, best.alphas or {}
    adapted = {name for name, rank in ranks.items() if rank}
    if not adapted or not adapted <= alphas.keys():
        return []
    source = lora_config_code(ranks, alphas, bool(best.fan_in_fan_out))
    lines = ["### The same as a PEFT configuration", "", *fenced(source.splitlines(), "python"), ""]
    return [*lines, NOT_IN_CONFIG[best.strategy], ""] if best.strategy in NOT_IN_CONFIG else lines
