"""Scores in, integer ranks out: the one place where a budget is spent."""

import hashlib
import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from strategies.base import Site

DEFAULT_HIGH = 64
UNSPENT_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class RankBudget:
    """How much adapter a trial may spend.

    Args:
        params: Trainable adapter parameters, summed over all sites.
        low: Smallest rank any site receives; 0 leaves a site unadapted.
        high: Largest rank any site receives; a site's own limit is min(d_in, d_out).
    """

    params: int
    low: int = 0
    high: int = DEFAULT_HIGH

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"need 0 <= low <= high, got low={self.low}, high={self.high}")
        if self.params < 1:
            raise ValueError(f"budget must be at least 1 parameter, got {self.params}")

    @classmethod
    def like_uniform(cls, rank: int, sites: Sequence[Site]) -> Self:
        """Return what plain LoRA of ``rank`` on every site spends.

        Raises:
            ValueError: ``rank`` is below 1 or above the smallest dimension of some site.
        """
        if rank < 1:
            raise ValueError(f"budget rank must be at least 1, got {rank}")
        narrow = min(sites, key=_limit)
        if rank > _limit(narrow):
            raise ValueError(f"budget rank {rank} is more than {narrow.name} can have ({_limit(narrow)})")
        return cls(params=rank * sum(site.cost for site in sites), high=max(DEFAULT_HIGH, rank))

    def share(self, fraction: float) -> Self:
        """Return a budget of ``fraction`` of the parameters, at most 1, rounded down."""
        if not 0 < fraction <= 1:
            raise ValueError(f"a share of a budget must be in (0, 1], got {fraction}")
        return replace(self, params=max(1, math.floor(fraction * self.params)))


@dataclass(frozen=True, slots=True)
class RankAllocation:
    """Integer ranks, zero included, for every site.

    Args:
        ranks: Site name -> rank, in the model's order.
        params: Trainable adapter parameters of these ranks.
    """

    ranks: Mapping[str, int]
    params: int

    @property
    def digest(self) -> str:
        """SHA-256 of the ranks, whatever their order."""
        return hashlib.sha256(json.dumps(sorted(self.ranks.items())).encode()).hexdigest()

    @property
    def adapted(self) -> dict[str, int]:
        """The sites that carry an adapter."""
        return {name: rank for name, rank in self.ranks.items() if rank}


def allocate(scores: Mapping[str, float], sites: Sequence[Site], budget: RankBudget) -> RankAllocation:
    """Spend a parameter budget on integer ranks proportional to scores.

    Units of rank are dealt one at a time. The next goes to the site with the largest ``score / (2 * rank + 1)``, which
    is the Sainte-Laguë (Webster) method of apportionment: ranks come out as the proportional shares rounded to the
    nearest integer. A unit costs ``d_in + d_out``. A site whose unit does not fit any more is finished; ties go to the
    site that comes first. A site of score 0 stays at ``budget.low`` unless more than 1 % of the budget would be left.

    Args:
        scores: Importance >= 0 for every site.
        sites: The sites, in the model's order.
        budget: What may be spent, and the bounds of a rank.

    Returns:
        Ranks that never cost more than the budget. What is left is less than the cheapest unit that could be added
        to a site with a positive score, or at most 1 %.

    Raises:
        ValueError: A score is missing, unknown, negative or not finite, or ``budget`` buys no unit of rank at all or
            not even ``low`` everywhere.

    Source:
        Balinski and Young, "Fair Representation" (1982), on divisor methods.
    """
    _check_scores(scores, sites)
    caps = {site.name: min(budget.high, _limit(site)) for site in sites}
    ranks = {site.name: min(budget.low, caps[site.name]) for site in sites}
    left = budget.params - sum(site.cost * ranks[site.name] for site in sites)
    if left < 0:
        raise ValueError(f"budget {budget.params} is too small for rank {budget.low} at each of {len(sites)} sites")
    claims = _rounded(scores)
    wanted = [site for site in sites if claims[site.name] > 0]
    left = _deal(wanted, claims, ranks, caps, left)
    if left > UNSPENT_TOLERANCE * budget.params:
        unwanted = [site for site in sites if claims[site.name] == 0]
        left = _deal(unwanted, dict.fromkeys(scores, 1.0), ranks, caps, left)
    if not any(ranks.values()):
        cheapest = min(site.cost for site in sites)
        raise ValueError(f"budget {budget.params} is too small for any rank: one unit costs at least {cheapest}")
    return RankAllocation(ranks=ranks, params=budget.params - left)


def _deal(
    sites: Sequence[Site], claims: Mapping[str, float], ranks: dict[str, int], caps: Mapping[str, int], left: int
) -> int:
    """Raise ``ranks`` in place, best claim first, and return what is left of the budget."""
    queue = [(-claims[site.name] / (2 * ranks[site.name] + 1), index) for index, site in enumerate(sites)]
    heapq.heapify(queue)
    while queue:
        _, index = heapq.heappop(queue)
        site = sites[index]
        if site.cost > left or ranks[site.name] >= caps[site.name]:
            continue  # `left` only falls, so this site is finished
        ranks[site.name] += 1
        left -= site.cost
        heapq.heappush(queue, (-claims[site.name] / (2 * ranks[site.name] + 1), index))
    return left


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """Scale to a maximum of 1 and drop digits that are float noise, so that scores equal on paper are equal here."""
    largest = max(scores.values())
    if largest == 0:
        return dict.fromkeys(scores, 1.0)  # nobody is preferred
    return {name: round(score / largest, 12) for name, score in scores.items()}


def _limit(site: Site) -> int:
    """Return the largest rank that is still a low-rank update."""
    return min(site.d_in, site.d_out)


def _check_scores(scores: Mapping[str, float], sites: Sequence[Site]) -> None:
    if not sites:
        raise ValueError("the model has no site to adapt")
    if difference := scores.keys() ^ {site.name for site in sites}:
        raise ValueError(f"scores and sites differ at {sorted(difference)[0]}")
    for name, score in scores.items():
        if not math.isfinite(score) or score < 0:
            raise ValueError(f"the score of {name} must be finite and at least 0, got {score}")
