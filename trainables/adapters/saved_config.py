"""A saved adapter, of which nobody knows who wrote it: its configuration, and its tensors."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch

from analysis.results.rank_patterns import looked_up
from trainables.adapters import CONFIG
from trainables.adapters.adapter import Adapter, load_weights

ANYTHING = frozenset({
    "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "lora_dropout", "peft_version", "revision",
    "task_type",
})  # fmt: skip
"""Fields that may say what they like: nothing that is computed or loaded depends on them."""
DEFAULT_RANK = 8
"""PEFT's, which is written where patterns give every matrix its own."""
NUMBERS = ("r", "lora_alpha")
PATTERNS = ("rank_pattern", "alpha_pattern")
NAMES = re.compile(r"[\w.\\|^()-]+")
"""Escaped names and their endings, side by side: a regex without repetition, which no name takes long to match."""


def read(folder: Path) -> peft.LoraConfig:
    """Return PEFT's configuration of an adapter that has ranks, scales and targets, and nothing besides.

    PEFT acts on other fields: it imports a module that one of them names, and replaces layers as others say.

    Raises:
        ValueError: It asks for something else, or a field is not what it should be.
        OSError: It is not there.
    """
    path = folder / CONFIG
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error}); give an adapter that a search has written") from error
    if not isinstance(written, dict) or written.get("peft_type") != "LORA":
        raise ValueError(f"{path}: no configuration of LoRA; give an adapter that a search has written")
    usual = json.loads(json.dumps(peft.LoraConfig().to_dict(), default=sorted))
    for field, value in written.items():
        if field not in ANYTHING and not _is_right(field, value, usual):
            shown = json.dumps(value)[:60]
            raise ValueError(f"{path}: {field} is {shown}, which no search writes; give an adapter of a search")
    return peft.LoraConfig.from_pretrained(str(folder))


def check_shapes(
    folder: Path, config: peft.LoraConfig, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Check that an adapter's tensors have the ranks that its configuration has: PEFT would make room for those.

    Args:
        folder: The adapter's.
        config: What it says.
        factors: Site -> A and B.

    Raises:
        ValueError: One has another rank, or the configuration has more for modules that have no tensors.
    """
    for name, (a, b) in factors.items():
        rank = looked_up(config.rank_pattern, name, config.r)
        if (a.ndim, b.ndim, len(a), *b.shape[1:]) != (2, 2, rank, rank):
            raise ValueError(f"{folder}: {name} is to have rank {rank}; its A is {(*a.shape,)}, its B {(*b.shape,)}")
    if config.r > max(DEFAULT_RANK, *(len(a) for a, _ in factors.values())):
        raise ValueError(f"{folder}: r is {config.r}, and no matrix has as many")


def _is_right(field: str, value: Any, usual: dict[str, Any]) -> bool:
    if field in NUMBERS:
        return _is_number(value, whole=field == "r")
    if field in PATTERNS:
        whole = field == "rank_pattern"
        return isinstance(value, dict) and all(_is_of_names(k) and _is_number(v, whole) for k, v in value.items())
    if field == "target_modules":
        names = [value] if isinstance(value, str) else value
        return isinstance(names, list) and all(map(_is_of_names, names))
    return field in usual and bool(value == usual[field])


def _is_of_names(pattern: Any) -> bool:
    if not isinstance(pattern, str) or not NAMES.fullmatch(pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError):
        return False
    return True


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return 0 < value < 2**31  # not so for NaN


def read_folder(folder: Path) -> Adapter:
    """Return the adapter that ``Adapter.save`` wrote, with the scales that PEFT would use, apart from any model.

    Raises:
        ValueError: Its configuration is not of LoRA alone, or is of other tensors.
        OSError: A file is missing.
        SafetensorError: Its tensors cannot be read.
    """
    config, tensors = read(folder), load_weights(folder)
    factors = {
        name: (tensors[key], tensors.get(key.replace(".lora_A.", ".lora_B."), torch.empty(0, 0)))
        for key in tensors
        if (name := _site_of(key)) is not None
    }
    check_shapes(folder, config, factors)
    alphas = {name: looked_up(config.alpha_pattern, name, config.lora_alpha) for name in factors}
    return Adapter(config, factors, {name: alphas[name] / len(a) for name, (a, _) in factors.items()})


def _site_of(key: str) -> str | None:
    """Return the site that a tensor of PEFT's name is A of; None if it is no A."""
    match = re.fullmatch(r"base_model\.model\.(.+)\.lora_A\.weight", key)
    return match[1] if match else None
