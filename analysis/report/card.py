"""The model card that goes with the winner's adapter."""

import json
import math
from dataclasses import dataclass

from analysis.report import verdict_section, winner
from analysis.report.base_code import IMPORTS, base_code
from analysis.results.markup import fenced, inline
from analysis.results.rank_patterns import vllm_flag
from analysis.results.rows import MOST_NATS, ResultRow
from analysis.results.run_info import RunInfo
from analysis.stats.assessment import SearchAssessment

AS_TRAINED = (
    "This is the adapter as it was trained, for Transformers and PEFT. Servers that know only one rank and one scale "
    "(vLLM, SGLang) take `best_adapter_uniform`, which lies beside it and gives the same logits."
)
UNIFORM = (
    "This is the adapter for servers that know only one rank and one scale (vLLM, SGLang): smaller ranks are padded "
    "with zeros, scales are multiplied into B, and the logits are those of `best_adapter`, which has the ranks above."
)


@dataclass(frozen=True, slots=True)
class Use:
    """How an adapter's folder is used.

    Args:
        base: What its base is loaded from: a folder or a hub id.
        revision: The hub id's commit.
        folder: The adapter's folder.
        uniform: Whether it has one rank and one scale, for servers that know no others.
        seen: What became of it when others' code loaded it, in words.
    """

    base: str
    revision: str | None
    folder: str
    uniform: bool
    seen: str


def card(best: ResultRow, assessment: SearchAssessment, info: RunInfo, use: Use) -> str:
    """Return a card in the Hugging Face hub's format: data, metrics, verdict, ranks; unknown values are left out.

    Args:
        best: The run whose adapter it is.
        assessment: What the rows of its search say.
        info: What the report shows of the run and its rows do not have.
        use: How the folder that the card lies in is used.
    """
    front_matter = {"library_name": "peft", "base_model": info.model, "tags": ["lora"]}
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front_matter.items() if value), "---", ""]
    lines += [f"# LoRA of {inline(info.model or 'a language model')}, ranks by {inline(best.strategy)}", ""]
    data = f"{info.train_examples or 'an unknown number of'} examples of {inline(info.dataset or 'unknown data')}"
    lines += [f"Chosen by a search over {len(assessment.searched)} trials and trained on {data}.", ""]
    lines += ["## Metrics", ""]
    for name, loss in (("validation", best.final_eval_loss), ("test", best.test_loss)):
        if loss is not None:
            perplexity = math.exp(min(loss, MOST_NATS))
            lines += [f"- **Loss on the {name} split:** {loss:.4f} nats per token (perplexity {perplexity:.2f})"]
    if (difference := verdict_section.difference_in_words(best, assessment)) is not None:
        lines += [f"- **Test loss of this run alone:** {difference}"]
    if best.trainable_parameters is not None:
        lines += [f"- **Parameters:** {best.trainable_parameters:,}"]
    lines += [f"- **Loaded again:** {inline(use.seen)}"]
    lines += ["", "## Is it better than one rank everywhere?", ""]
    lines += assessment.answer or ["Not confirmed: no verdict."]
    if about := verdict_section.scope(info.coverage):
        lines += ["", inline(about)]
    lines += ["", "## Ranks", "", winner.rank_table(best.ranks or {}), "", *_use(use, info, best)]
    return "\n".join(lines) + "\n"


def _use(use: Use, info: RunInfo, best: ResultRow) -> list[str]:
    """Return what the folder is for, and code that runs as it stands."""
    flag = vllm_flag(max((best.ranks or {}).values(), default=0))
    what = f"{UNIFORM if use.uniform else AS_TRAINED}{f' vLLM takes that with `{flag}`.' if flag else ''}"
    source = [
        IMPORTS, "", f"folder = {use.folder!r}  # where this card lies", *base_code(use.base, use.revision, info),
        "model = peft.PeftModel.from_pretrained(base, folder)",
        "tokenizer = transformers.AutoTokenizer.from_pretrained(folder)",
    ]  # fmt: skip
    return ["## Use", "", what, "", *fenced(source, "python")]
