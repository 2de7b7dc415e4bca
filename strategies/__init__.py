"""Rank allocation: strategies score sites, ``allocate`` spends the budget. Pure Python and NumPy."""

from strategies.adalora import AdaLora
from strategies.allocation import RankAllocation, RankBudget, allocate
from strategies.at_random import AtRandom
from strategies.attention_heavy import AttentionHeavy
from strategies.base import Evidence, Scorer, Site, Strategy, Suggester
from strategies.baseline import Baseline
from strategies.composite import Composite
from strategies.controls import CONTROLS, Frozen
from strategies.empirical import Empirical
from strategies.eva import Eva
from strategies.layer_lr import LayerLr
from strategies.linear_decay import LinearDecay
from strategies.plain import Plain

STRATEGIES: dict[str, type[Strategy]] = {
    cls.name: cls
    for cls in (Baseline, LinearDecay, AttentionHeavy, Empirical, Composite, Eva, AdaLora, Plain, AtRandom, LayerLr)
}
CONTAINING_PLAIN = tuple(name for name, cls in STRATEGIES.items() if cls.neutral is not None)
"""Strategies that have plain LoRA as one of their points, so that a better search would not have lost to it."""
RIVALS = (Plain.name, AtRandom.name, LayerLr.name)
"""The strongest simple rivals: a win is to be tried against all of them."""
SEARCHED = tuple(name for name in STRATEGIES if name not in {Eva.name, AdaLora.name, *RIVALS})
"""The default strategies of a search; each further one takes trials from the rest."""

__all__ = [
    "CONTAINING_PLAIN",
    "CONTROLS",
    "RIVALS",
    "SEARCHED",
    "STRATEGIES",
    "AdaLora",
    "Eva",
    "Evidence",
    "Frozen",
    "RankAllocation",
    "RankBudget",
    "Scorer",
    "Site",
    "Strategy",
    "Suggester",
    "allocate",
]
