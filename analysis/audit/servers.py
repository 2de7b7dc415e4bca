"""What servers make of an adapter: they read less of its configuration than PEFT does.

Sources: vLLM's ``vllm/lora/peft_helper.py`` scales by alpha / r (alpha / sqrt(r) with rsLoRA), drops ``rank_pattern``
and ``alpha_pattern``, and refuses DoRA and ``modules_to_save``; ``vllm/config/lora.py`` has the ranks that it can be
started for. SGLang's ``python/sglang/srt/lora/lora_config.py`` and ``lora.py`` scale by alpha / r, and refuse what
patterns override. ``tests/contract/test_servers.py`` has them as code.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from analysis.audit.adapter import PeftAdapter
from analysis.audit.config import AdapterConfig
from analysis.audit.findings import listed
from analysis.results.rank_patterns import VLLM_RANKS, vllm_flag


@dataclass(frozen=True, slots=True)
class Reading:
    """How a server reads an adapter.

    Args:
        as_trained: Whether it adds to each matrix what was trained.
        text: That in words.
    """

    as_trained: bool
    text: str


def read_by(name: str, adapter: PeftAdapter) -> Reading:
    """Return how a server reads an adapter; ``SERVERS`` has the names."""
    refused, scale = SERVERS[name]
    if reasons := [*refused(adapter)]:
        return Reading(False, f"refuses it: {', '.join(reasons)}")
    there = scale(adapter.config)
    other = [site for site in adapter.sites if not math.isclose(adapter.config.scale_of(site), there, rel_tol=1e-6)]
    if other:
        at = listed(other, lambda site: f"{site} ({adapter.config.scale_of(site):g})")
        return Reading(False, f"scales by {there:g} everywhere, which is wrong at {len(other)} sites: {at}")
    flag = vllm_flag(max(adapter.ranks.values(), default=0)) if name == "vllm" else ""
    needs = f", with {flag}" if flag else ""
    return Reading(True, f"reads it as it was trained{needs}")


def _vllm_refuses(adapter: PeftAdapter) -> Iterator[str]:
    yield from _both_refuse(adapter)
    if adapter.config.modules_to_save:
        yield "modules_to_save"
    if adapter.config.is_dora:
        yield "DoRA"
    if (highest := max(adapter.ranks.values(), default=0)) > VLLM_RANKS[-1]:
        yield f"a rank of {highest}, above {VLLM_RANKS[-1]}"


def _sglang_refuses(adapter: PeftAdapter) -> Iterator[str]:
    config = adapter.config
    yield from _both_refuse(adapter)
    if any(rank != config.rank for rank in config.rank_pattern.values()):
        yield "rank_pattern overrides r"
    if any(alpha != config.alpha for alpha in config.alpha_pattern.values()):
        yield "alpha_pattern overrides lora_alpha"


def _both_refuse(adapter: PeftAdapter) -> Iterator[str]:
    if adapter.config.is_adalora:
        yield "AdaLoRA's singular values"
    if any("lora_E" in name or "lora_magnitude" in name for name in adapter.unloadable):
        yield "names of tensors"


def _vllm_scale(config: AdapterConfig) -> float:
    return config.alpha / (math.sqrt(config.rank) if config.is_rslora else config.rank)


def _sglang_scale(config: AdapterConfig) -> float:
    return config.alpha / config.rank


SERVERS: dict[str, tuple[Callable[[PeftAdapter], Iterator[str]], Callable[[AdapterConfig], float]]] = {
    "vllm": (_vllm_refuses, _vllm_scale),
    "sglang": (_sglang_refuses, _sglang_scale),
}
"""Name -> why it refuses an adapter, and the scale that it has everywhere."""
