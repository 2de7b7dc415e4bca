"""Who gets how much rank: strategies score sites, ``allocate`` spends the budget. Pure Python and NumPy."""

from strategies.allocation import RankAllocation, RankBudget, allocate
from strategies.attention_heavy import AttentionHeavy
from strategies.base import Evidence, Scorer, Site, Strategy, Suggester
from strategies.baseline import Baseline
from strategies.composite import Composite
from strategies.controls import CONTROLS
from strategies.empirical import Empirical
from strategies.linear_decay import LinearDecay

STRATEGIES: dict[str, type[Strategy]] = {
    cls.name: cls for cls in (Baseline, LinearDecay, AttentionHeavy, Empirical, Composite)
}

__all__ = [
    "CONTROLS",
    "STRATEGIES",
    "Evidence",
    "RankAllocation",
    "RankBudget",
    "Scorer",
    "Site",
    "Strategy",
    "Suggester",
    "allocate",
]
