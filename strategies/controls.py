"""Controls: an allocation's own scores at the wrong matrices. Beating them is what shows that the places matter."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from strategies.allocation import units
from strategies.base import Evidence, Score, Scorer, Site


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

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> Mapping[str, Score]:
        """Return the same numbers under other names."""
        scores = self.of.scores(sites, evidence)
        dealt = list(scores.values())
        random.Random(self.seed).shuffle(dealt)
        return dict(zip(scores, dealt, strict=True))


@dataclass(frozen=True, slots=True)
class Inverted:
    """Another strategy's scores upside down: ``highest + lowest - score``, unit by unit if units are scored.

    Args:
        of: Whose scores.
        seed: Of no influence; there is one way to invert.
    """

    of: Scorer
    seed: int = 0
    name: ClassVar[str] = "inverted"

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> Mapping[str, Score]:
        """Return high scores where low ones were, ties kept."""
        scores = self.of.scores(sites, evidence)
        ends = [max(unit) + min(unit) for unit in zip_longest(*map(units, scores.values()), fillvalue=0.0)]
        found: dict[str, Score] = {}
        for name, score in scores.items():
            row = (*units(score), *(0.0 for _ in ends))
            turned = tuple(max(0.0, end - value) for end, value in zip(ends, row, strict=False))
            found[name] = turned if isinstance(score, tuple) else turned[0]
        return found


@dataclass(frozen=True, slots=True)
class Frozen:
    """The ranks that a strategy ended with while it trained, given from the start: what is left of it is plain LoRA.

    Args:
        ranks: A rank for each site in the model's order, with spaces between them.
    """

    ranks: str
    name: ClassVar[str] = "frozen"

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return the ranks; ``allocate`` gives each site its own before it gives any more than that."""
        found = self.ranks.split()
        if len(found) != len(sites):
            raise ValueError(f"frozen/ranks has {len(found)} ranks, the model has {len(sites)} sites")
        return {site.name: float(rank) for site, rank in zip(sites, found, strict=True)}


CONTROLS: dict[str, type[Shuffled] | type[Inverted]] = {cls.name: cls for cls in (Shuffled, Inverted)}
