"""The winner's ranks, as a table and as a configuration to paste."""

import math
import re
from collections import Counter
from collections.abc import Mapping

from tabulate import tabulate

from analysis.report import verdict_section
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase
from analysis.stats.assessment import SearchAssessment
from analysis.stats.verdicts import is_plain

REASONS = {
    Phase.SEARCH: "has the lowest evaluation loss of all finished trials; nothing has confirmed it",
    Phase.CONFIRM: "is the run to use: of the strategies that win against plain LoRA, the one of lowest mean "
    "evaluation loss, and of its runs the one of lowest evaluation loss",
}
PLAIN_WINS = "is the run to use: no strategy wins, so plain LoRA is recommended, and this is its lowest evaluation loss"
NOT_IN_CONFIG = {
    "eva": "It has the ranks and scales, not the beginning: each A began as the first principal components of its "
    'matrix\'s input, which PEFT makes with `init_lora_weights="eva"`.',
    "adalora": "It has the ranks and scales that the training ended with; it began with higher ranks and pruned them, "
    "which plain LoRA of this configuration does not do.",
}


def section(assessment: SearchAssessment) -> list[str]:
    """Return the section about the run to use; empty if there is none or its ranks are unknown."""
    best = assessment.recommended
    if best is None or not best.ranks:
        return []
    reason = PLAIN_WINS if best.phase == Phase.CONFIRM and is_plain(best) else REASONS[best.phase]
    lines = ["## Winner", "", f"`{best.experiment_name}` {reason}.", ""]
    lines += [f"- **Strategy:** {best.strategy}", f"- **Evaluation loss:** {best.final_eval_loss:.4f}"]
    if best.test_loss is not None:
        lines += [f"- **Test loss:** {best.test_loss:.4f} (perplexity {math.exp(best.test_loss):.2f})"]
    if (difference := verdict_section.difference_in_words(best, assessment)) is not None:
        lines += [f"- **This run alone:** {difference}"]
    lines += [f"- **Parameters:** {best.trainable_parameters:,}", "", "### Ranks by layer and matrix", ""]
    return [*lines, rank_table(best.ranks), "", *_config_section(best)]


def split_name(name: str) -> tuple[int, str]:
    """Return (layer, matrix): ``transformer.h.3.attn.c_attn`` is layer 3's ``attn.c_attn``."""
    parts = name.split(".")
    index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
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
    return tabulate(body, headers=["layer", *matrices], tablefmt="pipe", missingval="")


def lora_config_code(ranks: Mapping[str, int], alphas: Mapping[str, float], fan_in_fan_out: bool) -> str:
    """Return Python source that builds PEFT's ``LoraConfig`` of exactly these ranks and alphas."""
    adapted = {name: rank for name, rank in ranks.items() if rank}
    most_common = Counter((rank, alphas[name]) for name, rank in adapted.items()).most_common(1)[0][0]
    rank_pattern = {name: rank for name, rank in adapted.items() if rank != most_common[0]}
    alpha_pattern = {name: alphas[name] for name in adapted if alphas[name] != most_common[1]}
    targets = [re.escape(name) for name in adapted]
    return "\n".join(
        [
            "from peft import LoraConfig",
            "",
            "config = LoraConfig(",
            '    task_type="CAUSAL_LM",',
            f"    r={most_common[0]},",
            f"    lora_alpha={most_common[1]!r},",
            f"    fan_in_fan_out={fan_in_fan_out},",
            "    target_modules=(",
            *(f"        {_raw_string(target + '|')}" for target in targets[:-1]),
            f"        {_raw_string(targets[-1])}",
            "    ),",
            *_dict_lines("rank_pattern", rank_pattern),
            *_dict_lines("alpha_pattern", alpha_pattern),
            ")",
        ]
    )


def _dict_lines(name: str, values: Mapping[str, float]) -> list[str]:
    lines = [f"        {_raw_string('^' + re.escape(key))}: {value!r}," for key, value in values.items()]
    return [f"    {name}={{", *lines, "    },"] if lines else [f"    {name}={{}},"]


def _raw_string(pattern: str) -> str:
    return f'r"{pattern}"'


def _config_section(best: ResultRow) -> list[str]:
    if not best.ranks or not best.alphas:
        return []
    code = lora_config_code(best.ranks, best.alphas, bool(best.fan_in_fan_out))
    lines = ["### The same as a PEFT configuration", "", "```python", code, "```", ""]
    return [*lines, NOT_IN_CONFIG[best.strategy], ""] if best.strategy in NOT_IN_CONFIG else lines
