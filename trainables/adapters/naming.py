"""The fields of PEFT's configuration that name matrices: as few and as short as mean exactly the planned ranks."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from analysis.results.rank_patterns import patterns


def exact(ranks: Mapping[str, int], alphas: Mapping[str, float], modules: Iterable[str]) -> dict[str, Any]:
    """Return the fields with every name in full; in patterns, escaped and anchored.

    ``rank_pattern`` keys are regexes that match at name endings.

    Args:
        ranks: Adapted site -> rank.
        alphas: Adapted site -> alpha.
        modules: Names of all of the model's modules.
    """
    return {
        "target_modules": in_full(ranks, modules),
        "rank_pattern": {f"^{re.escape(name)}": rank for name, rank in ranks.items()},
        "alpha_pattern": {f"^{re.escape(name)}": alphas[name] for name in ranks},
    }


def in_full(sites: Collection[str], modules: Iterable[str]) -> list[str] | str:
    """Return the names of the sites, sorted; a regex of them if one is the ending of another module's name.

    PEFT takes a module whose name is in a list, or ends with a dot and one of the list. A regex must match the whole
    name, but for a mixture of experts PEFT (0.21) makes of it the last words of what it matches, by which sites that
    are left out are adapted, too.
    """
    others = {ending for module in modules if module not in sites for ending in _endings(module)}
    return sorted(sites) if others.isdisjoint(sites) else one_regex(sites)


def one_regex(sites: Iterable[str]) -> str:
    """Return a regex that matches the whole names of the sites and no others."""
    return "|".join(map(re.escape, sites))


def short(ranks: Mapping[str, int], alphas: Mapping[str, float], modules: Collection[str]) -> dict[str, Any]:
    """Return the fields as a person would write them: plain LoRA has no pattern, and a whole alpha is an integer.

    ``r`` and ``lora_alpha`` are those of most sites. Targets are the shortest endings of names that no other module
    has. A pattern has all sites of one rank, or one alpha, that is not that of most.

    Args:
        ranks: Adapted site -> rank.
        alphas: Adapted site -> alpha.
        modules: Names of all of the model's modules.
    """
    alphas = {name: int(alpha) if alpha == int(alpha) else alpha for name, alpha in alphas.items()}
    (rank, alpha), _ = Counter((rank, alphas[name]) for name, rank in ranks.items()).most_common(1)[0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": endings(ranks, modules),
        "rank_pattern": patterns(ranks, rank),
        "alpha_pattern": patterns(alphas, alpha),
    }


def endings(sites: Iterable[str], modules: Collection[str]) -> list[str]:
    """Return endings of names that PEFT resolves to exactly the sites, each the shortest for its site, sorted.

    PEFT takes a module whose name is one of them, or ends with a dot and one of them.
    """
    wanted = {*sites}
    others = {ending for module in modules if module not in wanted for ending in _endings(module)}
    return sorted({next(ending for ending in _endings(site) if ending not in others) for site in wanted})


def _endings(name: str) -> list[str]:
    """Return the endings of a name, the shortest first, itself last."""
    parts = name.split(".")
    return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
