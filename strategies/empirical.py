"""Rank according to measured importance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester

IMPORTANCE = "trainables.evidence.importance:measure"
EVIDENCE_KINDS = ("gradient", "activation", "sensitivity", "fisher")


@dataclass(frozen=True)
class Empirical(Strategy):
    r"""``score = (e / mean e) ** (1 / temperature)`` with e the evidence measured at the site before training.

    Args:
        evidence: ``gradient`` is the expected squared gradient of one unit of rank at initialisation, ``activation``
            the energy of the site's input, ``sensitivity`` the mean of weight times gradient, unsigned, ``fisher`` the
            mean squared gradient of a weight (see ``trainables.evidence.importance`` for the formulas).
        temperature: Above 1 flattens towards plain LoRA, below 1 sharpens.

    Source:
        Sensitivity: GoRA (arXiv 2502.12171). Fisher information: FIM-LoRA (arXiv 2605.16800). Activations: EVA
        (arXiv 2410.07170), here their energy alone.
    """

    evidence: str = "gradient"
    temperature: float = 2.0
    name: ClassVar[str] = "empirical"
    known_good: ClassVar[Mapping[str, float | str]] = {"evidence": "gradient", "temperature": 2.0}
    measurement: ClassVar[str | None] = IMPORTANCE

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE_KINDS:
            raise ValueError(f"empirical/evidence must be one of {', '.join(EVIDENCE_KINDS)}, got {self.evidence!r}")
        if self.temperature <= 0:
            raise ValueError(f"empirical/temperature must be above 0, got {self.temperature}")

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw the kind of evidence, and a temperature in [0.5, 8] on a logarithmic scale."""
        return cls(
            evidence=trial.suggest_categorical("evidence", EVIDENCE_KINDS),
            temperature=trial.suggest_float("temperature", 0.5, 8.0, log=True),
        )

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return the tempered evidence; sites where all evidence is 0 are treated alike."""
        relative = relative_evidence(self.evidence, sites, evidence)
        return {name: value ** (1 / self.temperature) for name, value in relative.items()}


def relative_evidence(kind: str, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
    """Return the evidence of a kind over its mean; 1 everywhere if all of it is 0.

    Raises:
        ValueError: None of the kind was measured.
    """
    measured = evidence.get(kind)
    if measured is None:
        raise ValueError(f"{kind} evidence is needed, and none was measured")
    mean = sum(measured[site.name] for site in sites) / len(sites)
    return {site.name: measured[site.name] / mean if mean else 1.0 for site in sites}
