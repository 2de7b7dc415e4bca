"""Plain LoRA."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester


@dataclass(frozen=True)
class Baseline(Strategy):
    """One rank everywhere: ``score = 1``.

    Source:
        Hu et al., "LoRA" (arXiv 2106.09685).
    """

    name: ClassVar[str] = "baseline"

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Plain LoRA has nothing to search but the learning rate, which every strategy has."""
        return cls()

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return 1 for every site."""
        return {site.name: 1.0 for site in sites}
