"""Trials of the benchmarks: the same configurations, data order, steps and seeds for every peer."""

import json
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis.results.trial_config import TrialConfig
from strategies import SEARCHED, STRATEGIES, RankBudget
from strategies.empirical import IMPORTANCE
from trainables.data.preparation import prepare
from trainables.data.splits import DataSource, Splits, load_splits
from trainables.evidence.measurements import measure
from trainables.models.base_model import shape_of
from trainables.spec import TrialSpec, Workload

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@lru_cache
def bundled(steps: int, evaluated: int = 16) -> Workload:
    """Return short trials on the bundled base: ``steps`` of 8 x 128 tokens, one report at the end."""
    source = DataSource(train_examples=8 * steps, validation_examples=evaluated, test_examples=evaluated)
    budget = RankBudget.like_uniform(2, shape_of("bundled").sites)
    workload = Workload("bundled", source, budget, epochs=1, batch_size=8, reports=1, scale=2.0)
    return replace(workload, evidence=measure(workload, IMPORTANCE).evidence)


def standard(device: str, steps: int) -> Workload:
    """Return a device's workload: the bundled base on CPU, GPT-2 Medium on a GPU."""
    if device == "cpu":
        return bundled(steps)
    workload = replace(gpt2_medium(steps), device=device)
    return replace(workload, evidence=measure(workload, IMPORTANCE).evidence)


def minimal(device: str) -> Workload:
    """Return trials of one step on one example, whose time is a trial's fixed cost."""
    workload = standard(device, 1)
    source = replace(workload.data, train_examples=1, validation_examples=1, test_examples=1)
    return replace(workload, data=source, batch_size=1)


def configs(count: int) -> list[TrialConfig]:
    """Return configurations: the strategies in turn, each with its known good choices, learning rates spread."""
    names = [SEARCHED[number % len(SEARCHED)] for number in range(count)]
    return [
        TrialConfig(
            strategy=name,
            trial_id=f"b{number:03d}",
            params=STRATEGIES[name].known_good,
            learning_rate=0.002 * 1.2 ** (number % 9),
            scaling="constant",
            seed=number,
        )
        for number, name in enumerate(names)
    ]


def lora(workload: Workload, config: TrialConfig) -> dict[str, Any]:
    """Return the arguments of PEFT's LoraConfig for a trial."""
    sites = shape_of(workload.model).sites
    spec = TrialSpec.from_config(config)
    allocation = spec.allocation(sites, workload.budget, workload.evidence)
    alphas = spec.alphas(allocation, sites, workload.scale)
    ranks = dict(allocation.adapted)
    return {
        "task_type": "CAUSAL_LM", "target_modules": list(ranks), "rank_pattern": ranks, "fan_in_fan_out": True,
        "alpha_pattern": {name: alphas[name] for name in ranks}, "lora_dropout": 0.0,
    }  # fmt: skip


def splits(workload: Workload) -> Splits:
    """Read and tokenise the data anew, without the cache."""
    prepare.cache_clear()
    return load_splits(workload.data, workload.model)


@lru_cache
def e2e(train_examples: int) -> DataSource:
    """Return prompts and completions of the E2E challenge; eight of them to measure on.

    Raises:
        FileNotFoundError: The text is not there.
    """
    folder = Path(tempfile.mkdtemp(prefix="e2e-"))
    lines = (SHARED_DATA / "e2e" / "valid.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("||") for line in lines if "||" in line]
    rows = [json.dumps({"meaning": f"{meaning}||", "text": text}) for meaning, text in pairs]
    (folder / "e2e.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return DataSource(
        str(folder / "e2e.jsonl"),
        prompt_column="meaning",
        completion_column="text",
        train_examples=train_examples,
        validation_examples=8,
        test_examples=8,
    )


@lru_cache
def gpt2_medium(steps: int) -> Workload:
    """Return trials of GPT-2 Medium's geometry with random weights on E2E text, 8 x 128 tokens a step.

    Raises:
        FileNotFoundError: The E2E text or the GPT-2 tokenizer is not there.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

    folder = Path(tempfile.mkdtemp(prefix="gpt2-medium-"))
    set_seed(0)
    shape = GPT2Config(n_layer=24, n_embd=1024, n_head=16, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    GPT2LMHeadModel(shape).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(SHARED_DATA / "gpt2-tokenizer" / "tokenizer.json"), eos_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    source = e2e(8 * steps)
    budget = RankBudget.like_uniform(4, shape_of(str(folder)).sites)
    return Workload(str(folder), source, budget, epochs=1, batch_size=8, reports=1, scale=2.0, threads=2)
