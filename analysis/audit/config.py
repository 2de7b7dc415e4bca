"""``adapter_config.json``, and what PEFT makes of it: which sites it targets, with which ranks and scales."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.audit.regexes import is_regex, takes_long
from analysis.results.rank_patterns import from_block, looked_up
from analysis.results.strict_json import is_count, is_number, parsed

LORA, ADALORA = "LORA", "ADALORA"
EVERYTHING = "all-linear"


@dataclass(frozen=True)
class AdapterConfig:
    """A configuration of LoRA or AdaLoRA; keys that are not named here change neither ranks nor scales.

    Args:
        values: All keys of the file.
    """

    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "AdapterConfig":
        """Read a file.

        Raises:
            ValueError: It is no such configuration; in one line.
        """
        try:
            values = parsed(path.read_text(encoding="utf-8"))
            _check(values)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(values)

    @property
    def is_adalora(self) -> bool:
        """Return True for AdaLoRA, whose ``rank_pattern`` says which singular values were kept."""
        return bool(self.values["peft_type"] == ADALORA)

    @property
    def rank(self) -> int:
        """The rank of sites that no pattern names."""
        return int(self.values.get("init_r", 12) if self.is_adalora else self.values.get("r", 8))

    @property
    def alpha(self) -> float:
        """The alpha of sites that no pattern names."""
        return float(self.values.get("lora_alpha", 8))

    @property
    def targets(self) -> list[str] | str:
        """Endings of names, or a regex of whole names."""
        targets = self.values.get("target_modules") or []
        return targets if isinstance(targets, str) else [str(target) for target in targets]

    @cached_property
    def rank_pattern(self) -> dict[str, int]:
        """Regex -> rank, those that are regexes; empty for AdaLoRA."""
        return {} if self.is_adalora else _regexes(self.values.get("rank_pattern"))

    @cached_property
    def alpha_pattern(self) -> dict[str, float]:
        """Regex -> alpha, those that are regexes."""
        return _regexes(self.values.get("alpha_pattern"))

    @property
    def kept(self) -> dict[str, int]:
        """AdaLoRA's sites -> ranks that were kept."""
        pattern = (self.values.get("rank_pattern") or {}) if self.is_adalora else {}
        return {key.removesuffix(".default").removesuffix(".lora_E"): sum(kept) for key, kept in pattern.items()}

    @property
    def not_regexes(self) -> list[str]:
        """Patterns that PEFT cannot use."""
        return [pattern for pattern in self._patterns if not is_regex(pattern)]

    @property
    def slow_regexes(self) -> list[str]:
        """Patterns that PEFT may try for ever; nothing is matched by them here."""
        return [pattern for pattern in self._patterns if is_regex(pattern) and takes_long(pattern)]

    @property
    def _patterns(self) -> list[str]:
        patterns = [*(() if self.is_adalora else self.values.get("rank_pattern") or ())]
        patterns += [*(self.values.get("alpha_pattern") or ())]
        excluded = self.values.get("exclude_modules")
        return patterns + [names for names in (self.targets, excluded) if isinstance(names, str)]

    @property
    def is_rslora(self) -> bool:
        """Return True if scales are alpha / sqrt(rank)."""
        return bool(self.values.get("use_rslora"))

    @property
    def is_dora(self) -> bool:
        """Return True if there is a vector of magnitudes for each matrix."""
        return bool(self.values.get("use_dora"))

    @property
    def modules_to_save(self) -> list[str]:
        """Modules that were trained in full."""
        return [str(name) for name in self.values.get("modules_to_save") or ()]

    @property
    def layers(self) -> list[int] | None:
        """Numbers of the only layers that are adapted; None for all."""
        layers = self.values.get("layers_to_transform")
        return [layers] if isinstance(layers, int) else layers or None

    def rank_of(self, site: str) -> int:
        """Return the rank that PEFT gives a site."""
        if self.is_adalora:
            return self.kept.get(site, self.rank)
        return int(looked_up(self.rank_pattern, site, self.rank))

    def scale_of(self, site: str) -> float:
        """Return what PEFT multiplies the product of a site's factors by."""
        if self.is_adalora:  # of the rank that it began with, whatever was pruned
            return (self.alpha if self.alpha > 0 else float(self.rank)) / (self.rank + 1e-5)
        rank = self.rank_of(site)
        alpha = float(looked_up(self.alpha_pattern, site, self.alpha))
        return alpha / (math.sqrt(rank) if self.is_rslora else rank)

    def is_targeted(self, site: str) -> bool:
        """Return True if PEFT attaches an adapter to a module of that name."""
        if any(self.matches_ending(name, site) for name in self._parameters):
            return True
        if self._is_excluded(site):
            return False
        if self.layers is not None and self._layer_of(site) not in self.layers:
            return False
        return self.matches(self.targets, site) if isinstance(self.targets, str) else self._is_listed(site)

    def _is_excluded(self, site: str) -> bool:
        excluded = self.values.get("exclude_modules") or []
        if isinstance(excluded, str):
            return _can_be_tried(excluded) and re.fullmatch(excluded, site) is not None
        return any(self.matches_ending(name, site) for name in excluded)

    @property
    def _parameters(self) -> list[str]:
        """Modules of which parameters are adapted, such as the experts of a mixture."""
        return [str(name).rpartition(".")[0] for name in self.values.get("target_parameters") or ()]

    @property
    def has_parameters(self) -> bool:
        """Return True if parameters are adapted that are no matrices of modules; their ranks are of all experts."""
        return bool(self._parameters)

    def _is_listed(self, site: str) -> bool:
        return any(self.matches_ending(target, site) for target in self.targets)

    @staticmethod
    def matches_ending(target: str, site: str) -> bool:
        """Return True if an entry of a list of targets names a site."""
        return site == target or site.endswith(f".{target}")

    @staticmethod
    def matches(regex: str, site: str) -> bool:
        """Return True if a regex of whole names, as a target, matches a site."""
        return regex == EVERYTHING or (_can_be_tried(regex) and re.fullmatch(regex, site) is not None)

    @staticmethod
    def _layer_of(site: str) -> int | None:
        number, _ = from_block(site)
        return int(number) if number else None


def matched(pattern: str, sites: Iterable[str]) -> list[str]:
    """Return the sites that a key of ``rank_pattern`` or ``alpha_pattern`` matches."""
    return [site for site in sites if looked_up({pattern: True}, site, False)]


def _regexes(patterns: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (patterns or {}).items() if _can_be_tried(key)}


def _can_be_tried(pattern: str) -> bool:
    return is_regex(pattern) and not takes_long(pattern)


def _check(values: Any) -> None:
    """Raise ValueError for what is no configuration of LoRA or AdaLoRA."""
    if not isinstance(values, dict):
        raise ValueError("not a mapping")
    if (kind := values.get("peft_type")) not in (LORA, ADALORA):
        raise ValueError(f"peft_type must be LORA or ADALORA, got {str(kind)[:40]!r}")
    for name, wanted in KINDS.items():
        if (value := values.get(name)) is not None and not wanted(value):
            raise ValueError(f"{name} cannot be {str(value)[:40]!r}")
    pattern = values.get("rank_pattern") or {}
    if not all(_is_kept(value) if kind == ADALORA else _is_rank(value) for value in pattern.values()):
        raise ValueError("rank_pattern must map names to ranks")


def _is_rank(value: object) -> bool:
    return is_count(value) and 0 < int(str(value)) < 1 << 31


def _is_kept(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(kept, bool) for kept in value)


def _is_names(value: object) -> bool:
    return isinstance(value, str) or _is_list_of(str)(value)


def _is_list_of(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(is_number(number) for number in value.values())


KINDS: dict[str, Callable[[object], bool]] = {
    "r": _is_rank,
    "init_r": _is_rank,
    "lora_alpha": is_number,
    "target_modules": _is_names,
    "target_parameters": _is_list_of(str),
    "exclude_modules": _is_names,
    "modules_to_save": _is_list_of(str),
    "layers_to_transform": lambda value: is_count(value) or _is_list_of(int)(value),
    "rank_pattern": lambda value: isinstance(value, dict),
    "alpha_pattern": _is_numbers,
}
