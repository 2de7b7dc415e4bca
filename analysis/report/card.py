"""The model card that goes with the winner's adapter."""

import json
import math

from analysis.report import verdict_section, winner
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.stats.assessment import SearchAssessment


def card(best: ResultRow, assessment: SearchAssessment, info: RunInfo) -> str:
    """Return a card in the Hugging Face hub's format: data, metrics, verdict, ranks; unknown values are left out.

    Args:
        best: The run whose adapter it is.
        assessment: What the rows of its search say.
        info: What the report shows of the run and its rows do not have.
    """
    front_matter = {"library_name": "peft", "base_model": info.model, "tags": ["lora"]}
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front_matter.items() if value), "---", ""]
    lines += [f"# LoRA of {info.model or 'a language model'}, ranks by {best.strategy}", ""]
    data = f"{info.train_examples or 'an unknown number of'} examples of {info.dataset or 'unknown data'}"
    lines += [f"Chosen by a search over {len(assessment.searched)} trials and trained on {data}.", ""]
    lines += ["## Metrics", ""]
    for name, loss in (("validation", best.final_eval_loss), ("test", best.test_loss)):
        if loss is not None:
            lines += [f"- **Loss on the {name} split:** {loss:.4f} nats per token (perplexity {math.exp(loss):.2f})"]
    if (difference := verdict_section.difference_in_words(best, assessment)) is not None:
        lines += [f"- **Test loss of this run alone:** {difference}"]
    if best.trainable_parameters is not None:
        lines += [f"- **Parameters:** {best.trainable_parameters:,}"]
    lines += ["", "## Is it better than one rank everywhere?", ""]
    lines += assessment.answer or ["Not confirmed: no verdict."]
    lines += ["", "## Ranks", "", winner.rank_table(best.ranks or {}), "", "## Use", "", "```python"]
    lines += [
        "from peft import PeftModel", "from transformers import AutoModelForCausalLM", "",
        "base = AutoModelForCausalLM.from_pretrained(...)  # the base model named above",
        "model = PeftModel.from_pretrained(base, ...)  # this folder", "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
