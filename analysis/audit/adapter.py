"""An adapter's folder as PEFT wrote it: its configuration and, at each site, its factors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analysis.audit import tensors
from analysis.audit.config import AdapterConfig
from analysis.audit.tensors import Array

WEIGHTS, CONFIG, PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
PREFIX = "base_model.model."
NAME = re.compile(
    rf"{re.escape(PREFIX)}(?P<site>.+)\.(?P<part>lora_(?:embedding_)?[ABE]|lora_magnitude_vector)(?:\.weight)?"
)
"""PEFT's name of a factor in a file."""
UNLOADABLE = re.compile(r"(^|\.)lora_(embedding_)?[ABE](\.|$)|lora_magnitude_vector")


@dataclass(frozen=True)
class Factors:
    """What an adapter has at one site: it adds ``scale * B @ diag(e) @ A`` to the matrix.

    Args:
        a: Of shape (rank, d_in).
        b: Of shape (d_out, rank).
        e: AdaLoRA's singular values, of shape (rank,); None for LoRA.
        magnitude: Whether there is DoRA's vector of magnitudes.
        params: Numbers of all of these.
    """

    a: Array
    b: Array
    e: Array | None
    magnitude: bool
    params: int

    @property
    def rank(self) -> int:
        """Rows of A."""
        return int(self.a.shape[0])

    @property
    def scaled_a(self) -> Array:
        """A with AdaLoRA's singular values in it."""
        return self.a if self.e is None else self.a * self.e[:, None]

    @cached_property
    def is_finite(self) -> bool:
        """Return True if no number is NaN or infinite."""
        return all(bool(np.isfinite(part).all()) for part in (self.a, self.b, self.e) if part is not None)

    @cached_property
    def padded(self) -> int:
        """Directions that are zero in A and in B: they fill an adapter up to one rank, and cannot be trained."""
        return int((~self.scaled_a.any(axis=1) & ~self.b.any(axis=0)).sum())

    @cached_property
    def moved(self) -> bool:
        """Return True if something is added to the matrix."""
        return bool(self.b.any() and self.scaled_a.any())


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter of anybody's.

    Args:
        config: Its configuration.
        sites: Adapted site -> its factors.
        incomplete: Site -> why its factors are none: one is missing, or shapes do not fit.
        unloadable: Names of factors that PEFT does not know.
        others: Name of a tensor that is no factor -> its numbers.
    """

    config: AdapterConfig
    sites: Mapping[str, Factors]
    incomplete: Mapping[str, str] = field(default_factory=dict)
    unloadable: tuple[str, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def ranks(self) -> dict[str, int]:
        """Adapted site -> rank of its tensors."""
        return {name: factors.rank for name, factors in self.sites.items()}

    @property
    def is_padded(self) -> bool:
        """Return True if it was filled up with zeros to one rank; its scales then lie in B."""
        return any(factors.padded for factors in self.sites.values())

    @property
    def used_ranks(self) -> dict[str, int]:
        """Adapted site -> rank of its tensors without padding."""
        ranks = {name: factors.rank - factors.padded for name, factors in self.sites.items()}
        return {name: rank for name, rank in ranks.items() if rank}

    @property
    def params(self) -> int:
        """Numbers of all factors."""
        return sum(factors.params for factors in self.sites.values())


def read_folder(folder: Path) -> PeftAdapter:
    """Read an adapter.

    Raises:
        ValueError: The folder has no LoRA or AdaLoRA adapter that can be read; in one line.
    """
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: no {CONFIG} in it; give the folder of a PEFT adapter")
    if not (folder / WEIGHTS).is_file():
        pickle = f"{PICKLE} is a pickle, which can run code, and is not read" if (folder / PICKLE).exists() else ""
        raise ValueError(f"{folder}: no {WEIGHTS} in it; {pickle or 'give the folder of a PEFT adapter'}")
    config = AdapterConfig.read(folder / CONFIG)
    return _sorted_out(config, tensors.read(folder / WEIGHTS))


def _sorted_out(config: AdapterConfig, arrays: Mapping[str, Array]) -> PeftAdapter:
    parts: dict[str, dict[str, Array]] = {}
    unloadable, others = [], {}
    for name, array in sorted(arrays.items(), key=lambda item: _in_order(item[0])):
        if match := NAME.fullmatch(name):
            parts.setdefault(match["site"], {})[match["part"].replace("embedding_", "")] = array
        elif UNLOADABLE.search(name):
            unloadable.append(name)
        else:
            others[name.removeprefix(PREFIX)] = int(array.size)
    sites, incomplete = {}, {}
    for site, its_parts in parts.items():
        try:
            factors = _factors(its_parts)
        except ValueError as error:
            incomplete[site] = str(error)
        else:
            if factors.rank:  # AdaLoRA may have pruned all of it
                sites[site] = factors
    return PeftAdapter(config, sites, incomplete, tuple(unloadable), others)


def _in_order(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _factors(parts: Mapping[str, Any]) -> Factors:
    """Return the factors of a site; a convolution's are taken as matrices."""
    for part in ("lora_A", "lora_B"):
        if part not in parts:
            raise ValueError(f"no {part}")
        if parts[part].ndim < 2:
            raise ValueError(f"{part} has the shape {parts[part].shape}, which is of no matrix")
    a, b = parts["lora_A"], parts["lora_B"]
    rank = len(a)
    e = parts["lora_E"].reshape(-1) if "lora_E" in parts else None
    if b.shape[1] != rank or (e is not None and len(e) != rank):
        raise ValueError(f"A has rank {rank}, B has rank {b.shape[1]}")
    size = sum(int(part.size) for part in parts.values())
    flat_a = a.reshape(rank, -1) if rank else a.reshape(0, 0)
    flat_b = b.reshape(len(b), -1) if b.ndim == 2 or b.size == len(b) * rank else None
    if flat_b is None:
        raise ValueError(f"lora_B has the shape {b.shape}, which is of no factor")
    return Factors(flat_a, flat_b, e, "lora_magnitude_vector" in parts, size)
