"""Rank as a linear function of depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester, relative_depth


@dataclass(frozen=True)
class LinearDecay(Strategy):
    """``score = max(0, 1 + slope * (1 - 2 t))`` with t the relative depth, 0 at the bottom and 1 at the top.

    Args:
        slope: Positive: ranks fall with depth, from twice the mean to zero at 1. Negative: they rise. 0 is plain LoRA.
            Beyond +-1 the far end of the model stays without an adapter.

    Source:
        The seed report's ``linear_decay``; signed because the direction is a question, not a premise (L1RA,
        arXiv 2509.04884, finds that neither end wins everywhere).
    """

    slope: float = 0.0
    name: ClassVar[str] = "linear_decay"
    known_good: ClassVar[Mapping[str, float | str]] = {"slope": -0.5}
    neutral: ClassVar[Mapping[str, float | str] | None] = {"slope": 0.0}

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw a slope in [-1.5, 1.5]."""
        return cls(slope=trial.suggest_float("slope", -1.5, 1.5))

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return a score that depends on depth alone."""
        return {site.name: max(0.0, 1 + self.slope * (1 - 2 * relative_depth(site, sites))) for site in sites}
