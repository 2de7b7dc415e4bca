"""One rank everywhere and a learning rate by depth: what moving the rate gains in place of the rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester, relative_depth


@dataclass(frozen=True)
class LayerLr(Strategy):
    """``score = 1``, and the learning rate times ``max(0, 1 + slope * (1 - 2 t))`` with t the relative depth.

    A null: what ``linear_decay`` gives to ranks, this gives to learning rates. Who does not beat it may owe to the
    speed at which blocks learn what he took for their ranks.

    Args:
        slope: Positive: rates fall with depth, from twice the given one to none at 1. Negative: they rise. 0 is plain
            LoRA.

    Source:
        Rates that differ within an adapter are those of LoRA+ (Hayou et al., arXiv 2402.12354), there by factor, A and
        B, here by depth.
    """

    slope: float = 0.0
    name: ClassVar[str] = "layer_lr"
    is_null: ClassVar[bool] = True
    known_good: ClassVar[Mapping[str, float | str]] = {"slope": -0.5}
    neutral: ClassVar[Mapping[str, float | str] | None] = {"slope": 0.0}

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw a slope in [-1.5, 1.5], as ``linear_decay`` does."""
        return cls(slope=trial.suggest_float("slope", -1.5, 1.5))

    @property
    def training(self) -> str:
        """The slope, but for that of plain LoRA."""
        return repr(self) if self.slope else ""

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return 1 for every site."""
        return {site.name: 1.0 for site in sites}

    def rate_factors(self, sites: Sequence[Site]) -> dict[str, float]:
        """Return a factor that depends on depth alone."""
        return {site.name: max(0.0, 1 + self.slope * (1 - 2 * relative_depth(site, sites))) for site in sites}
