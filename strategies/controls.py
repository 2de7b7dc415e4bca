"""Controls: an allocation's own scores at the wrong matrices. Beating them shows that the placement matters."""

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
        of: The strategy whose scores are shuffled.
        seed: Seed of the shuffle.
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
        of: The strategy whose scores are inverted.
        seed: Without influence; there is one way to invert.
    """

    of: Scorer
    seed: int = 0
    name: ClassVar[str] = "inverted"

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> Mapping[str, Score]:
        """Return high scores in place of low ones, with ties unchanged."""
        scores = self.of.scores(sites, evidence)
        ends = [max(unit) + min(unit) for unit in zip_longest(*map(units, scores.values()), fillvalue=0.0)]
        inverted: dict[str, Score] = {}
        for name, score in scores.items():
            row = (*units(score), *(0.0 for _ in ends))
            flipped = tuple(max(0.0, end - value) for end, value in zip(ends, row, strict=False))
            inverted[name] = flipped if isinstance(score, tuple) else flipped[0]
        return inverted


@dataclass(frozen=True, slots=True)
class Frozen:
    """The final ranks of a strategy that allocates while training, fixed from the start as in plain LoRA.

    Args:
        ranks: A rank for each site in the model's order, separated by spaces.
    """

    ranks: str
    name: ClassVar[str] = "frozen"

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return the ranks; ``allocate`` gives every site its rank before it gives any more."""
        ranks = self.ranks.split()
        if len(ranks) != len(sites):
            raise ValueError(f"frozen/ranks has {len(ranks)} ranks, the model has {len(sites)} sites")
        return {site.name: float(rank) for site, rank in zip(sites, ranks, strict=True)}


CONTROLS: dict[str, type[Shuffled] | type[Inverted]] = {cls.name: cls for cls in (Shuffled, Inverted)}
