"""What the base and trained adapters write after prompts of the test split: greedily, by PEFT's own ``generate``."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from trainables.adapters import peft_adapter
from trainables.data.splits import IGNORED, Example
from trainables.models.base_model import BaseModel
from trainables.models.context import Context
from trainables.spec import Workload
from trainables.training.inputs import base_of, splits_of

PROMPTS, NEW_TOKENS, MOST_SECONDS = 5, 48, 60.0
SHOWN = 1500
"""Characters of a prompt that are kept, from its end."""
PROMPT, DATA = "prompt", "the data"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The beginning of a row.

    Args:
        ids: Its tokens.
        rest: The tokens after it, to the end of what is learned there: of a conversation, the first answer.
        halved: Whether the row has no prompt, and this is its first half.
    """

    ids: tuple[int, ...]
    rest: tuple[int, ...]
    halved: bool


def continued(workload: Workload, adapters: Mapping[str, Path | None]) -> tuple[list[dict[str, str]], str]:
    """Have a base write on, alone and with adapters, after prompts of the test split.

    Args:
        workload: What the adapters were trained on.
        adapters: Name -> folder that ``Adapter.save`` wrote; None is the base alone.

    Returns:
        For each prompt the text of it, what the data have next, and what each name writes; and a sentence that says
        what the prompts are.

    Raises:
        ValueError: No prompt leaves room for a token.
    """
    base = base_of(workload)
    limit = Context.of(base.model.config).tokens
    prompts, most = chosen(splits_of(workload).test, limit)
    texts = [{PROMPT: _end_of(base, prompt.ids), DATA: _text(base, prompt.rest[:most])} for prompt in prompts]
    with _greedy(base, most), torch.inference_mode(False), torch.no_grad():
        rows = [prompt.ids for prompt in prompts]
        padded = _may_be_padded(base, rows)
        for name, folder in adapters.items():
            with peft_adapter.restored(base.model):
                model = base.model if folder is None else peft_adapter.loaded(base.model, folder).eval()
                written = _written(model, rows, base.pad_id, padded)
            for text, ids in zip(texts, written, strict=True):
                text[name] = _text(base, ids)
    return texts, _about(prompts, most)


def chosen(examples: Sequence[Example], limit: int | None) -> tuple[list[Prompt], int]:
    """Return prompts of different documents, and how many tokens are to follow.

    Args:
        examples: Rows.
        limit: Tokens that the model takes; None if there is no limit.

    Raises:
        ValueError: No prompt leaves room for a token.
    """
    first = {example.document: example for example in reversed(examples)}  # of each document the first row
    prompts = [prompt_of(example) for example in sorted(first.values(), key=examples.index)]
    if limit is not None:
        prompts = sorted(
            (prompt for prompt in prompts if len(prompt.ids) < limit),
            key=lambda prompt: len(prompt.ids) + NEW_TOKENS > limit,  # a stable order: those with all room first
        )
    if not prompts:
        raise ValueError("no prompt of the test split leaves room for another token in the model's context")
    prompts = prompts[:PROMPTS]
    longest = max(len(prompt.ids) for prompt in prompts)
    return prompts, NEW_TOKENS if limit is None else min(NEW_TOKENS, limit - longest)


def prompt_of(example: Example) -> Prompt:
    """Return what of a row comes before its first learned token; of a row that is learned from the start, a half."""
    ids = example.input_ids
    begin = next((index for index, label in enumerate(example.labels) if label != IGNORED), 0)
    halved = begin == 0
    begin = begin or max(1, len(ids) // 2)
    end = next((index for index in range(begin, len(ids)) if example.labels[index] == IGNORED), len(ids))
    return Prompt(ids[:begin], ids[begin:end], halved)


def _about(prompts: Sequence[Prompt], most: int) -> str:
    what = "what comes before the first learned token of a row"
    halves = sum(prompt.halved for prompt in prompts)
    if halves:
        what = "the first half of a row, for the rows have no prompt"
        what += "" if halves == len(prompts) else f" ({halves} of {len(prompts)}, else what comes before its answer)"
    return f"Each prompt is {what}; at most {most} tokens follow, each the most likely one."


@contextmanager
def _greedy(base: BaseModel, most: int) -> Iterator[None]:
    """Have a model take the most likely token, whatever its own files say of sampling or of penalties."""
    before = base.model.generation_config
    ends = {base.tokenizer.eos_token_id, *_numbers(before.eos_token_id)} - {None}
    base.model.generation_config = GenerationConfig(
        max_new_tokens=most, max_time=MOST_SECONDS, do_sample=False, use_cache=True, pad_token_id=base.pad_id,
        eos_token_id=sorted(ends) or None,
    )  # fmt: skip
    try:
        yield
    finally:
        base.model.generation_config = before


def _numbers(value: Any) -> Sequence[int]:
    return value if isinstance(value, list) else [value]


def _written(model: Any, rows: Sequence[tuple[int, ...]], pad_id: int, padded: bool) -> list[list[int]]:
    """Return what a model writes after each row, together or one by one."""
    ends = model.generation_config.eos_token_id or []
    groups = [rows] if padded else [[row] for row in rows]
    answers = []
    for group in groups:
        inputs = _padded(group, pad_id, model.device)
        made = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :].tolist()
        answers += [_before_end(ids, ends) for ids in made]
    return answers


def _before_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[: next((index for index, token in enumerate(ids) if token in ends), len(ids))]


def _padded(rows: Sequence[tuple[int, ...]], pad_id: int, device: Any) -> dict[str, torch.Tensor]:
    """Return rows that end together."""
    longest = max(map(len, rows))
    ids = [[pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def _may_be_padded(base: BaseModel, rows: Sequence[tuple[int, ...]]) -> bool:
    """Return True if a row's next token is as likely among others as alone: not every model heeds the mask."""
    shortest = min(range(len(rows)), key=lambda index: len(rows[index]))
    if len(rows[shortest]) == max(map(len, rows)):
        return True
    together, alone = (_next(base, group)[at] for group, at in ((rows, shortest), ([rows[shortest]], 0)))
    return bool((together - alone).abs().max() <= 1e-3 * alone.abs().max())


def _next(base: BaseModel, rows: Sequence[tuple[int, ...]]) -> torch.Tensor:
    inputs = _padded(rows, base.pad_id, base.model.device)
    options: dict[str, Any] = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    logits: torch.Tensor = base.model.generate(**inputs, **options).logits[0]
    return logits


def _text(base: BaseModel, ids: Sequence[int]) -> str:
    return str(base.tokenizer.decode(list(ids)))


def _end_of(base: BaseModel, ids: Sequence[int]) -> str:
    text = _text(base, ids)
    return text if len(text) <= SHOWN else f"… {text[-SHOWN:]}"
