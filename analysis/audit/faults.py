"""What is wrong with an adapter by itself, whatever it was meant to be."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.audit.adapter import PREFIX, Factors, PeftAdapter
from analysis.audit.config import EVERYTHING, AdapterConfig, matched
from analysis.audit.findings import Finding, at, listed
from analysis.audit.spectrum import numerical_rank
from analysis.audit.tensors import Array
from analysis.results.messages import one_line
from analysis.results.rank_patterns import from_block

FEWEST_TO_JUDGE = 1024
"""Of fewer numbers, none may be beyond the bound of its first draw by chance."""
GLOB = re.compile(r"(\d+)(?:\\?\.)?\.[*+]")
"""A number that was meant to be whole, before a wildcard: ``layers.1.*q_proj`` is of layers 1, 10 and 11."""


def findings(adapter: PeftAdapter, spectra: Mapping[str, Array]) -> list[Finding]:
    """Return what is wrong, in the order in which it would be mended.

    Args:
        adapter: The adapter.
        spectra: Site -> its singular values; of sites whose numbers are finite.
    """
    if not adapter.sites and not adapter.incomplete and not adapter.unloadable:
        return [Finding("no-site", "No site is adapted")]
    return [
        *_unreadable(adapter),
        *_names(adapter),
        *_ranks(adapter),
        *_patterns(adapter.config, [*adapter.sites]),
        *_numbers(adapter, spectra),
        *_besides(adapter),
    ]


def _unreadable(adapter: PeftAdapter) -> Iterator[Finding]:
    count = len(adapter.sites) + len(adapter.incomplete)
    yield from at(
        "factors", "The factors do not fit each other", [*adapter.incomplete], count,
        lambda site: f"{site} ({adapter.incomplete[site]})",
    )  # fmt: skip
    if adapter.unloadable:
        text = f"{len(adapter.unloadable)} tensors have names that PEFT does not load, as it writes {PREFIX}SITE."
        yield Finding("tensor-names", one_line(f"{text}lora_A.weight: {listed(adapter.unloadable)}"))


def _names(adapter: PeftAdapter) -> Iterator[Finding]:
    """Yield what targets match too few or too many sites."""
    config, sites = adapter.config, [*adapter.sites]
    for pattern in config.not_regexes:
        yield Finding("no-regex", one_line(f"{pattern!r} is no regex, and PEFT takes it for one"))
    for pattern in config.slow_regexes:
        yield Finding("slow-regex", one_line(f"{pattern[:200]!r} may be tried for ever, and was not"))
    untargeted = [site for site in sites if not config.is_targeted(site)]
    yield from at("not-targeted", "PEFT drops tensors, as target_modules does not match", untargeted, len(sites))
    for target in () if isinstance(config.targets, str) else config.targets:
        names_a_parameter = config.has_parameters and any(target in site for site in sites)
        if not any(config.matches_ending(target, site) for site in sites) and not names_a_parameter:
            yield Finding("target-matches-nothing", one_line(f"The target {target!r} matches none of the sites"))
    if isinstance(config.targets, str) and config.targets != EVERYTHING:
        yield from _meant_as_glob("target_modules", config.targets, [s for s in sites if config.is_targeted(s)])
    numbers = {from_block(site)[0] for site in sites}
    if absent := [str(layer) for layer in config.layers or () if str(layer) not in numbers]:
        yield Finding("layer-matches-nothing", f"layers_to_transform has layers without a site: {listed(absent)}")


def _ranks(adapter: PeftAdapter) -> Iterator[Finding]:
    config, sites = adapter.config, adapter.sites
    others = [site for site, rank in adapter.ranks.items() if not _is_rank(config, site, rank)]
    yield from at(
        "rank-not-of-config", "PEFT cannot load tensors of another rank than the configuration says", others,
        len(sites), lambda site: f"{site} ({sites[site].rank} for {config.rank_of(site)})",
    )  # fmt: skip
    kept = [site for site, rank in config.kept.items() if rank and site not in sites and site not in adapter.incomplete]
    if kept:
        yield Finding("pattern-matches-nothing", one_line(f"rank_pattern keeps ranks of no site: {listed(kept)}"))
    unscaled = [site for site in sites if not config.scale_of(site) > 0]
    yield from at("scale", "The scale is not above 0", unscaled, len(sites))


def _is_rank(config: AdapterConfig, site: str, rank: int) -> bool:
    wanted = config.rank_of(site)
    return rank == wanted or (config.has_parameters and rank % wanted == 0)  # a rank for each expert


def _patterns(config: AdapterConfig, sites: Sequence[str]) -> Iterator[Finding]:
    patterns: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern),
    )  # fmt: skip
    for name, values in patterns:
        deciding: dict[str, str] = {}
        for key, value in values.items():
            its_sites = matched(key, sites)
            if not its_sites:
                yield Finding("pattern-matches-nothing", one_line(f"{name}: {key!r} matches none of the sites"))
                continue
            before = [deciding[site] for site in its_sites if site in deciding]
            if len(before) == len(its_sites) and any(values[other] != value for other in before):
                what = f"{before[0]!r} comes first and matches as much: {values[before[0]]:g} is used"
                yield Finding("pattern-unused", one_line(f"{name}: {key!r} decides nothing, {what}, not {value:g}"))
            deciding = {**dict.fromkeys(its_sites, key), **deciding}
            yield from _meant_as_glob(name, key, its_sites)


def _meant_as_glob(name: str, key: str, its_sites: Sequence[str]) -> Iterator[Finding]:
    blocks = sorted({from_block(site)[0] for site in its_sites}, key=lambda number: int(number or -1))
    for number in GLOB.findall(key):
        if further := [block for block in blocks if block.startswith(number) and block != number]:
            text = f"{name}: {key!r} matches too much, block {listed(further)} beside {number}"
            yield Finding("pattern-matches-too-much", one_line(text))


def _numbers(adapter: PeftAdapter, spectra: Mapping[str, Array]) -> Iterator[Finding]:
    sites = adapter.sites
    yield from _where(adapter, "not-finite", "Numbers are NaN or infinite", lambda factors: not factors.is_finite)
    unmoved = "B is zero, so that nothing was learned or saved," if not adapter.config.is_adalora else "Nothing moved"
    yield from _where(adapter, "never-moved", unmoved, _has_never_moved)
    drawn = [site for site, factors in sites.items() if factors.moved and factors.is_finite and _is_as_drawn(factors)]
    if len(drawn) < sum(factors.moved for factors in sites.values()):  # at all of them it is a way to train
        yield from at("a-as-drawn", "A is as PEFT initialises it, while it was trained elsewhere,", drawn, len(sites))
    ranks = {site: numerical_rank(values) for site, values in spectra.items()}
    short = [site for site in ranks if sites[site].moved and ranks[site] < sites[site].rank - sites[site].padded]
    yield from at(
        "rank-unused", "B A has a lower rank than its factors", short, len(sites),
        lambda site: f"{site} ({ranks[site]} of {sites[site].rank})",
    )  # fmt: skip


def _where(adapter: PeftAdapter, kind: str, text: str, is_so: Callable[[Factors], bool]) -> list[Finding]:
    sites = [site for site, factors in adapter.sites.items() if is_so(factors)]
    return at(kind, text, sites, len(adapter.sites))


def _has_never_moved(factors: Factors) -> bool:
    return factors.is_finite and not factors.moved and factors.padded < factors.rank


def _is_as_drawn(factors: Factors) -> bool:
    """Return True if A looks as PEFT draws it: evenly between -1 / sqrt(d_in) and 1 / sqrt(d_in)."""
    a = factors.a.astype(np.float64)
    bound = 1 / math.sqrt(a.shape[1])
    spread = float((a**2).mean()) * 3 / bound**2  # 1 for an even draw; its variance is 4 / (5 size)
    enough = factors.e is None and a.size >= FEWEST_TO_JUDGE
    return enough and bool(np.abs(a).max() <= bound * 1.004) and abs(spread - 1) < 4 / math.sqrt(a.size)


def _besides(adapter: PeftAdapter) -> Iterator[Finding]:
    config, sites = adapter.config, adapter.sites
    without = [site for site, factors in sites.items() if factors.magnitude != config.is_dora]
    text = "DoRA's magnitudes are missing" if config.is_dora else "DoRA's magnitudes are dropped, use_dora is not set,"
    yield from at("magnitudes", text, without, len(sites))
    for name in config.modules_to_save:
        if not any(f".{name}." in f".{other}" for other in adapter.others):
            yield Finding("module-missing", one_line(f"modules_to_save has {name!r}, and the file has no tensor of it"))
