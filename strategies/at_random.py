"""Allocations drawn at random: what searching any allocations, however meaningless, gains over plain LoRA."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester


@dataclass(frozen=True)
class AtRandom(Strategy):
    """``score = exp(spread * z)`` with z drawn for each site from a standard normal distribution.

    A null: it is searched as long as any other, and whoever does not beat it has gained by searching alone.

    Args:
        draw: Which allocation it is. Neighbouring values have nothing in common.
        spread: How far ranks differ: at .5 the rank of two sites in three lies within a factor of 1.6 of the median.
    """

    draw: float = 0.5
    spread: float = 0.5
    name: ClassVar[str] = "random"
    is_null: ClassVar[bool] = True
    known_good: ClassVar[Mapping[str, float | str]] = {"draw": 0.5, "spread": 0.5}

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw an allocation, and a spread that is never plain LoRA."""
        return cls(draw=trial.suggest_float("draw", 0.0, 1.0), spread=trial.suggest_float("spread", 0.25, 1.5))

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return the same scores for the same values, on any machine."""
        generator = random.Random(repr(self.draw))
        return {site.name: math.exp(self.spread * generator.gauss(0.0, 1.0)) for site in sites}
