"""Controls: an allocation's own scores at the wrong matrices. Beating them is what shows that the places matter."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from strategies.base import Evidence, Scorer, Site


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Another strategy's scores, dealt to the matrices at random; the budget is then spent anew, so the cost is equal.

    Args:
        of: Whose scores.
        seed: Decides who gets which.
    """

    of: Scorer
    seed: int
    name: ClassVar[str] = "shuffled"

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return the same numbers under other names."""
        scores = self.of.scores(sites, evidence)
        dealt = list(scores.values())
        random.Random(self.seed).shuffle(dealt)
        return dict(zip(scores, dealt, strict=True))


@dataclass(frozen=True, slots=True)
class Inverted:
    """Another strategy's scores upside down: ``highest + lowest - score``.

    Args:
        of: Whose scores.
        seed: Of no influence; there is one way to invert.
    """

    of: Scorer
    seed: int = 0
    name: ClassVar[str] = "inverted"

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return high scores where low ones were, ties kept."""
        scores = self.of.scores(sites, evidence)
        ends = max(scores.values()) + min(scores.values())
        return {name: max(0.0, ends - score) for name, score in scores.items()}


CONTROLS: dict[str, type[Shuffled] | type[Inverted]] = {cls.name: cls for cls in (Shuffled, Inverted)}
