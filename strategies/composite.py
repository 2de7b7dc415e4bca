"""Depth, kind of matrix and measured importance at once; every other strategy is a point of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester, relative_depth
from strategies.empirical import EVIDENCE_KINDS, IMPORTANCE, relative_evidence

LEAST_RELATIVE_EVIDENCE = 1e-6


@dataclass(frozen=True)
class Composite(Strategy):
    """``max(0, 1 + slope * (1 - 2 t) + curvature * (6 t^2 - 6 t + 1)) * exp(+-log_ratio / 2) * (e / mean e) ** power``.

    t is the relative depth, e the evidence; the sign of the log-ratio is + for attention and - for the MLP. All are
    signed, and 0 everywhere is plain LoRA.

    Args:
        slope: As ``LinearDecay``'s: positive moves rank to the bottom.
        curvature: Positive moves rank to both ends, negative to the middle; the polynomial (Legendre's second, shifted)
            has mean 0 over depth, so this does not act as a slope.
        log_ratio: As ``AttentionHeavy``'s: positive favours attention.
        evidence: As ``Empirical``'s.
        power: 1 over ``Empirical``'s temperature; negative favours sites of little evidence, of which anything below a
            millionth of the mean counts as that.

    Source:
        The product of this project's single strategies, as ALoRA and its kin combine signals; nothing here is new but
        the joint search.
    """

    slope: float = 0.0
    curvature: float = 0.0
    log_ratio: float = 0.0
    evidence: str = "gradient"
    power: float = 0.0
    name: ClassVar[str] = "composite"
    known_good: ClassVar[Mapping[str, float | str]] = {
        "slope": -0.25, "curvature": 0.0, "log_ratio": -0.5, "evidence": "gradient", "power": 0.25,
    }  # fmt: skip
    neutral: ClassVar[Mapping[str, float | str] | None] = {
        "slope": 0.0, "curvature": 0.0, "log_ratio": 0.0, "evidence": "gradient", "power": 0.0,
    }  # fmt: skip
    measurement: ClassVar[str | None] = IMPORTANCE

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE_KINDS:
            raise ValueError(f"composite/evidence must be one of {', '.join(EVIDENCE_KINDS)}, got {self.evidence!r}")

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw each from a range around 0."""
        return cls(
            slope=trial.suggest_float("slope", -1.5, 1.5),
            curvature=trial.suggest_float("curvature", -1.0, 1.0),
            log_ratio=trial.suggest_float("log_ratio", -3.0, 3.0),
            evidence=trial.suggest_categorical("evidence", EVIDENCE_KINDS),
            power=trial.suggest_float("power", -1.0, 2.0),
        )

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return the product; with power 0 no evidence is needed."""
        relative = relative_evidence(self.evidence, sites, evidence) if self.power else {s.name: 1.0 for s in sites}
        scores = {}
        for site in sites:
            t = relative_depth(site, sites)
            depth = max(0.0, 1 + self.slope * (1 - 2 * t) + self.curvature * (6 * t * t - 6 * t + 1))
            kind = math.exp((1 if site.kind == "attention" else -1) * self.log_ratio / 2)
            scores[site.name] = depth * kind * max(relative[site.name], LEAST_RELATIVE_EVIDENCE) ** self.power
        return scores
