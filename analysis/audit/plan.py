"""What an adapter was meant to be, and where it differs: ranks, scales and parameters."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.audit.adapter import PREFIX, PeftAdapter
from analysis.audit.findings import Finding, at
from analysis.results.confinement import check_folder
from analysis.results.rows import read_rows
from analysis.results.run_info import RunInfo
from analysis.results.strict_json import is_count, is_number, parsed
from analysis.stats.assessment import assess


@dataclass(frozen=True, slots=True)
class Plan:
    """What was meant.

    Args:
        ranks: Site -> rank; sites that are absent, or of rank 0, were to have no adapter.
        alphas: Site -> alpha; empty if they do not matter.
        params: Numbers that the adapter was to have; None if that follows from the ranks alone.
    """

    ranks: Mapping[str, int]
    alphas: Mapping[str, float] = field(default_factory=dict)
    params: int | None = None


def read(path: Path) -> Plan:
    """Read a plan: a run folder's recommended run, its ``verdict.json``, a row, or JSON of site -> rank.

    Raises:
        ValueError: It is none of these; in one line.
    """
    if path.is_dir():
        return _of_run(path)
    try:
        values = parsed(path.read_text(encoding="utf-8"))
        return _of_json(values)
    except (ValueError, OSError) as error:
        raise ValueError(f"--plan {path}: {error}") from error


def _of_run(folder: Path) -> Plan:
    check_folder(folder, but=("ray",))
    info = RunInfo.of_run(folder, "")
    run = assess(read_rows(folder / "rows.jsonl"), info.margin, info.containing_plain).recommended
    if run is None or not run.ranks:
        raise ValueError(f"--plan {folder}: no run in it can be recommended")
    return Plan(run.ranks, run.alphas or {}, run.trainable_parameters)


def _of_json(values: Any) -> Plan:
    if not isinstance(values, dict):
        raise ValueError("a plan is a mapping of site to rank")
    values = values["recommended"] if isinstance(values.get("recommended"), dict) else values
    named = "ranks" in values
    ranks, alphas = (values["ranks"], values.get("alphas") or {}) if named else (values, {})
    params = next((values[name] for name in ("parameters", "trainable_parameters") if name in values and named), None)
    if not (isinstance(ranks, dict) and ranks and all(is_count(rank) and rank >= 0 for rank in ranks.values())):
        raise ValueError("a plan is a mapping of site to rank, none of them below 0")
    if not (isinstance(alphas, dict) and all(is_number(alpha) for alpha in alphas.values())):
        raise ValueError("alphas must map sites to numbers")
    if params is not None and not is_count(params):
        raise ValueError("parameters must be a whole number")
    return Plan(_without_prefix(ranks), _without_prefix(alphas), params)


def _without_prefix(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in values.items()}


def differences(adapter: PeftAdapter, plan: Plan) -> list[Finding]:
    """Return where an adapter is not what was meant."""
    return [*_ranks(adapter, plan), *_scales(adapter, plan), *_params(adapter, plan)]


def _ranks(adapter: PeftAdapter, plan: Plan) -> Iterator[Finding]:
    meant, there = {site: rank for site, rank in plan.ranks.items() if rank}, adapter.used_ranks
    missing = [site for site in meant if site not in there]
    yield from at("site-missing", "A rank was meant and there is no adapter", missing, len(meant))
    more = [site for site in there if site not in meant]
    yield from at("site-not-meant", "There is an adapter and no rank was meant", more, len(there))
    other = [site for site in there if site in meant and there[site] != meant[site]]
    same = {there[site] for site in other}
    all_of_one = f", {same.pop()} for each," if len(same) == 1 and len(other) > 1 else ""
    yield from at(
        "rank-not-meant", f"Another rank than was meant{all_of_one}", other, len(there),
        lambda site: f"{site} ({there[site]} for {meant[site]})",
    )  # fmt: skip


def _scales(adapter: PeftAdapter, plan: Plan) -> Iterator[Finding]:
    if adapter.is_padded:
        return
    meant = {site: plan.alphas[site] / rank for site, rank in plan.ranks.items() if rank and site in plan.alphas}
    there = {site: adapter.config.scale_of(site) for site in adapter.sites if site in meant}
    other = [site for site in there if not math.isclose(there[site], meant[site], rel_tol=1e-4)]
    yield from at(
        "scale-not-meant", "Another scale than was meant", other, len(adapter.sites),
        lambda site: f"{site} ({there[site]:g} for {meant[site]:g})",
    )  # fmt: skip


def _params(adapter: PeftAdapter, plan: Plan) -> Iterator[Finding]:
    if (meant := plan.params if plan.params is not None else _counted(adapter, plan)) is None:
        return
    there = sum(_size(adapter, site, rank) for site, rank in adapter.used_ranks.items())
    if there != meant:
        share = f", {there / meant:.0%} of it" if meant > 0 else ""
        yield Finding("parameters-not-meant", f"{there:,} parameters, {meant:,} were meant{share}")


def _counted(adapter: PeftAdapter, plan: Plan) -> int | None:
    """Return the parameters of the planned ranks; None if there is no tensor that says how large a site is."""
    if not {site for site, rank in plan.ranks.items() if rank} <= adapter.sites.keys():
        return None
    return sum(_size(adapter, site, rank) for site, rank in plan.ranks.items() if rank)


def _size(adapter: PeftAdapter, site: str, rank: int) -> int:
    """Return the numbers in A and B of a rank at a site."""
    factors = adapter.sites[site]
    return int(rank * (factors.a.shape[1] + factors.b.shape[0]))
