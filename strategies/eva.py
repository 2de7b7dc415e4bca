"""Rank where the inputs of a matrix vary, and adapters that begin as the directions in which they do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester

MOST_RHO = 3.0
COMPONENTS, COMPONENT = "trainables.evidence.input_pca:measure", "explained_variance/"
"""The measurement, and how its kinds of evidence begin: 1 for the first component, 2 for the second, and so on."""


@dataclass(frozen=True)
class Eva(Strategy):
    """The k-th unit of rank at a site is worth the share of its input's variance that the k-th component explains.

    The rest of EVA is not a matter of scores: the components are measured, and A begins as the first of them.

    EVA sorts the components of all matrices by explained variance and keeps as many as there are ranks to give. Here
    they are dealt in the same order until the *parameters* are spent, so a unit that costs more leaves fewer to others.

    Args:
        rho: No site gets more than ``rho`` times the rank of plain LoRA of the same cost; 1 is plain LoRA that begins
            as EVA does.

    Source:
        Paischl et al., "Parameter Efficient Fine-tuning via Explained Variance Adaptation" (arXiv 2410.07170), where
        rho is 1 or 2; PEFT's ``peft.tuners.lora.eva``.
    """

    rho: float = 2.0
    name: ClassVar[str] = "eva"
    known_good: ClassVar[Mapping[str, float | str]] = {"rho": 2.0}
    measurement: ClassVar[str | None] = COMPONENTS
    initializer: ClassVar[str | None] = "trainables.evidence.components:first_components"

    def __post_init__(self) -> None:
        if not 1 <= self.rho <= MOST_RHO:
            raise ValueError(f"eva/rho must be in [1, {MOST_RHO:g}], got {self.rho}")

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw rho."""
        return cls(rho=trial.suggest_float("rho", 1.0, MOST_RHO))

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, tuple[float, ...]]:
        """Return the explained variance of each unit of rank."""
        measured = spectra(evidence)
        if not measured:
            raise ValueError("explained variance is needed, and none was measured")
        # `MOST_RHO` times plain LoRA's rank was measured, so this is `rho` times it
        most = math.ceil(round(self.rho / MOST_RHO * len(measured), 9))
        return {site.name: tuple(component.get(site.name, 0.0) for component in measured[:most]) for site in sites}


def spectra(evidence: Evidence) -> list[Mapping[str, float]]:
    """Return site name -> explained variance ratio for the first component, the second, and so on."""
    ratios: list[Mapping[str, float]] = []
    while (kind := f"{COMPONENT}{len(ratios) + 1}") in evidence:
        ratios.append(evidence[kind])
    return ratios
