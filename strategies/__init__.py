"""Who gets how much rank: strategies score sites, ``allocate`` spends the budget. Pure Python and NumPy."""

from strategies.allocation import RankAllocation, RankBudget, allocate
from strategies.attention_heavy import AttentionHeavy
from strategies.base import Evidence, Site, Strategy, Suggester
from strategies.baseline import Baseline
from strategies.empirical import Empirical
from strategies.linear_decay import LinearDecay

STRATEGIES: dict[str, type[Strategy]] = {cls.name: cls for cls in (Baseline, LinearDecay, AttentionHeavy, Empirical)}

__all__ = [
    "STRATEGIES",
    "Evidence",
    "RankAllocation",
    "RankBudget",
    "Site",
    "Strategy",
    "Suggester",
    "allocate",
]
