"""The winner's adapter as others read it: named as people name matrices, and with one rank and one scale."""

import re
from dataclasses import replace
from pathlib import Path

import torch

from trainables.adapters import naming
from trainables.adapters.adapter import Adapter
from trainables.adapters.saved_config import read_folder
from trainables.data.templates import put_template
from trainables.engine.evaluation import exact_loss
from trainables.models.base_model import BaseModel, save_tokenizer
from trainables.spec import Workload
from trainables.training.checkpoint import BEST, UNIFORM
from trainables.training.inputs import base_of, splits_of


def write_all(workload: Workload, adapter: Path, output: Path) -> float:
    """Write a trained adapter in both forms, and measure it as the search measures, but in float32.

    Args:
        workload: The workload that it was trained on.
        adapter: Folder that ``Adapter.save`` wrote.
        output: Folder for ``BEST`` and ``UNIFORM``.

    Returns:
        The mean loss per learned token of the validation split, in nats.
    """
    base, trained = base_of(workload), read_folder(adapter)
    for form, name in ((named_shortly(base, trained), BEST), (uniform(base, trained), UNIFORM)):
        write(workload.model, form, output / name)
        put_template(workload.data.chat_template, output / name)
    return exact_loss(base, trained, splits_of(workload).validation, workload.micro_batch)


def write(model: str, adapter: Adapter, folder: Path) -> None:
    """Write an adapter with the tokenizer that it was trained with, chat template included.

    Args:
        model: The base that it belongs to, as ``Workload.model``.
        adapter: In any form.
        folder: Made if it is not there.
    """
    adapter.save(folder)
    save_tokenizer(model, folder)


def named_shortly(base: BaseModel, adapter: Adapter) -> Adapter:
    """Return the same adapter with a configuration as a person would write it; plain LoRA has no pattern."""
    alphas = {name: rank * adapter.scales[name] for name, rank in adapter.ranks.items()}
    return replace(adapter, config=replace(adapter.config, **naming.short(adapter.ranks, alphas, _modules(base))))


def uniform(base: BaseModel, adapter: Adapter) -> Adapter:
    """Return an adapter that gives the same logits with one rank and one scale, for servers that know no others.

    Every matrix of an adapted kind gets the highest rank: A and B are padded with zeros, the scale is multiplied into
    B, and alpha is the rank.
    """
    rank, scales = max(adapter.ranks.values()), adapter.scales
    kinds = {_kind(name) for name in adapter.factors}
    padded = {}
    for site in base.sites:
        if _kind(site.name) in kinds:
            a, b = torch.zeros(rank, site.d_in), torch.zeros(site.d_out, rank)
            if site.name in adapter.factors:
                small_a, small_b = (factor.detach().cpu() for factor in adapter.factors[site.name])
                a[: len(small_a)] = small_a
                b[:, : len(small_a)] = small_b * scales[site.name]
            padded[site.name] = (a, b)
    ranks, alphas = dict.fromkeys(padded, rank), dict.fromkeys(padded, float(rank))
    config = replace(adapter.config, lora_dropout=0.0, **naming.short(ranks, alphas, _modules(base)))
    return Adapter(config, padded, dict.fromkeys(padded, 1.0))


def _modules(base: BaseModel) -> list[str]:
    return [name for name, _ in base.model.named_modules() if name]


def _kind(name: str) -> str:
    """Return a site's name without its numbers: what the matrices of all blocks have in common."""
    return re.sub(r"\d+", "N", name)
