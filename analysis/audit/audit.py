"""An audit: everything that is said of an adapter, as JSON and as text."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.audit import faults, servers, spectrum
from analysis.audit.adapter import PeftAdapter, read_folder
from analysis.audit.findings import Finding, listed
from analysis.audit.plan import Plan, differences
from analysis.audit.servers import Reading
from analysis.results.messages import one_line

SCHEMA_VERSION = 1
SOUND, FINDINGS = 0, 1
"""Exit statuses; wrong usage and what cannot be read is 2."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What is said of an adapter.

    Args:
        adapter: The adapter.
        effective: Site -> effective rank of what it adds; of sites whose numbers are finite.
        readings: Server -> how it reads the adapter.
        findings: What is wrong.
    """

    adapter: PeftAdapter
    effective: Mapping[str, float]
    readings: Mapping[str, Reading]
    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> int:
        """Return 0 if nothing was found, else 1."""
        return FINDINGS if self.findings else SOUND

    def content(self) -> dict[str, Any]:
        """Return it for programs; no number is NaN."""
        adapter, config = self.adapter, self.adapter.config
        return {
            "schema_version": SCHEMA_VERSION,
            "exit_status": self.exit_status,
            "peft_type": config.values["peft_type"],
            "base_model": config.values.get("base_model_name_or_path"),
            "variants": variants(adapter),
            "target_modules": config.targets,
            "parameters": adapter.params,
            "other_parameters": dict(adapter.others),
            "sites": {
                site: {
                    "rank": factors.rank,
                    "scale": config.scale_of(site),
                    "parameters": factors.params,
                    "effective_rank": self.effective.get(site),
                    "moved": factors.moved,
                }
                for site, factors in adapter.sites.items()
            },
            "servers": {
                name: {"as_trained": reading.as_trained, "text": reading.text}
                for name, reading in self.readings.items()
            },
            "findings": [
                {"kind": finding.kind, "text": finding.text, "sites": list(finding.sites)} for finding in self.findings
            ],
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        facts = {
            "base": self.adapter.config.values.get("base_model_name_or_path") or "not named",
            "kind": " with ".join([str(self.adapter.config.values["peft_type"]), *variants(self.adapter)]),
            "ranks": _ranks_in_words(self.adapter),
            "scales": _span(self.adapter.config.scale_of(site) for site in self.adapter.sites),
            "targets": _targets_in_words(self.adapter),
            "parameters": _size_in_words(self.adapter),
            "effective rank": _effective_in_words(self),
            **{f"in {name}": f"{reading.text}" for name, reading in self.readings.items()},
        }
        lines = [f"{name:<15} {one_line(str(text))}" for name, text in facts.items()]
        findings = [f"- {finding.text} [{finding.kind}]" for finding in self.findings]
        return [*lines, "", f"Found: {len(findings)}" if findings else "Found: nothing", *findings]


def audited(folder: Path, plan: Plan | None = None, server: str | None = None) -> Audit:
    """Audit the adapter in a folder.

    Args:
        folder: As PEFT wrote it.
        plan: What was meant; None compares with nothing.
        server: The one that it is for: that it is read otherwise there is a finding.

    Raises:
        ValueError: It cannot be read.
    """
    adapter = read_folder(folder)
    spectra = {name: spectrum.singular_values(site) for name, site in adapter.sites.items() if site.is_finite}
    readings = {name: servers.read_by(name, adapter) for name in servers.SERVERS}
    findings = [*faults.findings(adapter, spectra), *([] if plan is None else differences(adapter, plan))]
    if server is not None and not readings[server].as_trained:
        findings.append(Finding("served-otherwise", f"{server} {readings[server].text}"))
    effective = {name: spectrum.effective_rank(values) for name, values in spectra.items()}
    return Audit(adapter, effective, readings, tuple(findings))


def variants(adapter: PeftAdapter) -> list[str]:
    """Return what the adapter is besides LoRA: rsLoRA, DoRA, patterns of ranks and of alphas."""
    config = adapter.config
    named = {
        "rsLoRA": config.is_rslora, "DoRA": config.is_dora, "rank_pattern": bool(config.values.get("rank_pattern")),
        "alpha_pattern": bool(config.alpha_pattern), "target_parameters": config.has_parameters,
        "modules_to_save": bool(config.modules_to_save),
    }  # fmt: skip
    return [name for name, is_so in named.items() if is_so]


def _ranks_in_words(adapter: PeftAdapter) -> str:
    ranks = Counter(adapter.ranks.values())
    sites = f"{len(adapter.sites)} sites"
    if len(ranks) < 2:
        return f"{sites}{''.join(f', rank {rank}' for rank in ranks)}"
    return f"{sites}, {', '.join(f'{count} of rank {rank}' for rank, count in sorted(ranks.items()))}"


def _span(values: Any) -> str:
    numbers = sorted(values)
    if not numbers:
        return "none"
    low, high = numbers[0], numbers[-1]
    return f"{low:g} everywhere" if math.isclose(low, high, rel_tol=1e-6) else f"{low:g} to {high:g}"


def _targets_in_words(adapter: PeftAdapter) -> str:
    targets = adapter.config.targets
    return targets[:100] if isinstance(targets, str) else listed(targets)


def _size_in_words(adapter: PeftAdapter) -> str:
    besides = f", and {sum(adapter.others.values()):,} in {listed(adapter.others)}" if adapter.others else ""
    return f"{adapter.params:,}{besides}"


def _effective_in_words(audit: Audit) -> str:
    """Return the sum over the sites against that of their ranks, and where least of its rank is used."""
    ranks = {site: rank for site, rank in audit.adapter.ranks.items() if site in audit.effective}
    if not ranks:
        return "none"
    least = min(ranks, key=lambda site: audit.effective[site] / ranks[site])
    total = f"{sum(audit.effective.values()):.1f} of {sum(ranks.values())}"
    return f"{total}; least at {least}, {audit.effective[least]:.1f} of {ranks[least]}"
