"""A script that trains an allocation with TRL and PEFT alone; nothing of ours is in it but the numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.report.lora_config import lora_config_code

NAME, ROWS, OUTPUT = "train_with_trl.py", "train.jsonl", "trained_with_trl"
HEAD = f'''"""Train this allocation with TRL and PEFT alone: python {NAME} [FOLDER]

The adapter goes to FOLDER, by default {OUTPUT} beside this file. {ROWS} has the rows as tokens; to train on
other texts, give TRL a data set of them in its place.
"""

import json
import sys
from pathlib import Path

import datasets
import torch
import transformers
import trl
'''


@dataclass(frozen=True, slots=True)
class Training:
    """How an allocation is trained.

    Args:
        base: What the base is loaded from: a folder or a hub id.
        revision: The hub id's commit.
        batch_size: Rows per step.
        steps: Optimizer steps.
        warmup_steps: Those with a rising learning rate.
        learning_rate: The highest.
        weight_decay: AdamW's.
        clip_norm: Largest gradient norm.
        dropout: Before A.
        seed: Of initial weights, order and dropout.
    """

    base: str
    revision: str | None
    batch_size: int
    steps: int
    warmup_steps: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    dropout: float
    seed: int


def script(
    ranks: Mapping[str, int], alphas: Mapping[str, float], fan_in_fan_out: bool, training: Training, adapter: str
) -> str:
    """Return the script.

    Args:
        ranks: Site -> rank.
        alphas: Adapted site -> alpha.
        fan_in_fan_out: Whether the adapted layers keep their weight as (d_in, d_out).
        training: How it is trained.
        adapter: Folder beside the script that has the tokenizer.
    """
    config = lora_config_code(ranks, alphas, fan_in_fan_out)
    revision = "" if training.revision is None else f", revision={training.revision!r}"
    dropout = [f"config.lora_dropout = {training.dropout!r}"] if training.dropout else []
    return "\n".join(
        [
            HEAD + config,
            *dropout,
            "",
            "here = Path(__file__).parent",
            f"output = sys.argv[1] if len(sys.argv) > 1 else str(here / {OUTPUT!r})",
            f'rows = [json.loads(line) for line in (here / {ROWS!r}).read_text(encoding="utf-8").splitlines()]',
            "base = transformers.AutoModelForCausalLM.from_pretrained(",
            f"    {training.base!r}{revision}, dtype=torch.float32",
            ")",
            f"tokenizer = transformers.AutoTokenizer.from_pretrained(here / {adapter!r})",
            *_arguments(training),
            "trainer = trl.SFTTrainer(",
            "    model=base, args=arguments, train_dataset=datasets.Dataset.from_list(rows), peft_config=config,",
            "    processing_class=tokenizer,",
            ")",
            "trainer.train()",
            "trainer.save_model(output)",
            "",
        ]
    )


def _arguments(training: Training) -> list[str]:
    return [
        "arguments = trl.SFTConfig(",
        "    output_dir=output,",
        f"    per_device_train_batch_size={training.batch_size},",
        f"    max_steps={training.steps},",
        f"    learning_rate={training.learning_rate!r},",
        '    lr_scheduler_type="linear",',
        f"    warmup_steps={training.warmup_steps},",
        f"    weight_decay={training.weight_decay!r},",
        f"    max_grad_norm={training.clip_norm!r},",
        f"    seed={training.seed},",
        "    bf16=torch.cuda.is_available(),",
        "    use_cpu=not torch.cuda.is_available(),",
        "    gradient_checkpointing=False,",
        "    max_length=None,  # rows are cut already",
        '    save_strategy="no",',
        '    report_to="none",',
        ")",
    ]
