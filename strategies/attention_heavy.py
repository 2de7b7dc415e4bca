"""Rank moved between attention and MLP."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester


@dataclass(frozen=True)
class AttentionHeavy(Strategy):
    """``score = exp(+log_ratio / 2)`` for attention, ``exp(-log_ratio / 2)`` for the MLP.

    Args:
        log_ratio: Natural logarithm of attention rank over MLP rank. Positive favours attention, as the name says;
            negative favours the MLP; 0 is plain LoRA.

    Source:
        The seed report's ``attention_heavy``; signed because PEFT's own method comparison favours the MLP at equal
        parameters.
    """

    log_ratio: float = 0.0
    name: ClassVar[str] = "attention_heavy"
    known_good: ClassVar[Mapping[str, float | str]] = {"log_ratio": -1.0}
    neutral: ClassVar[Mapping[str, float | str] | None] = {"log_ratio": 0.0}

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw a log-ratio in [-3, 3]: from 1 : 20 to 20 : 1."""
        return cls(log_ratio=trial.suggest_float("log_ratio", -3.0, 3.0))

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return a score that depends on the kind of matrix alone."""
        weight = {"attention": math.exp(self.log_ratio / 2), "mlp": math.exp(-self.log_ratio / 2)}
        return {site.name: weight[site.kind] for site in sites}
