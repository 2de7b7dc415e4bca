"""Scores in, integer ranks out: the one place where a budget is spent."""

import hashlib
import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from strategies.base import Score, Site

UNSPENT_TOLERANCE = 0.01
LARGEST_SIZE = 4.0
"""Of plain LoRA that others are measured by, over the budget's."""


@dataclass(frozen=True, slots=True)
class RankBudget:
    """How much adapter a trial may spend.

    Args:
        params: Trainable adapter parameters, summed over all sites.
        low: Smallest rank any site receives; 0 leaves a site unadapted.
        high: Largest rank any site receives; None leaves only a site's own limit, min(d_in, d_out).
    """

    params: int
    low: int = 0
    high: int | None = None

    def __post_init__(self) -> None:
        if self.low < 0 or (self.high is not None and self.low > self.high):
            raise ValueError(f"need 0 <= low <= high, got low={self.low}, high={self.high}")
        if self.params < 1:
            raise ValueError(f"budget must be at least 1 parameter, got {self.params}")

    @classmethod
    def like_uniform(cls, rank: int, sites: Sequence[Site]) -> Self:
        """Return the budget that plain LoRA of ``rank`` on every site spends, as far as a site's dimensions allow it.

        Raises:
            ValueError: ``rank`` is below 1 or above what any site can have.
        """
        if rank < 1:
            raise ValueError(f"budget rank must be at least 1, got {rank}")
        most = max(site.max_rank for site in sites)
        if rank > most:
            raise ValueError(f"budget rank {rank} is more than any matrix can have (at most {most})")
        return cls(sum(site.cost * min(rank, site.max_rank) for site in sites))

    def share(self, fraction: float) -> Self:
        """Return a budget of ``fraction`` of the parameters, at most ``LARGEST_SIZE``, rounded down."""
        if not 0 < fraction <= LARGEST_SIZE:
            raise ValueError(f"a share of a budget must be in (0, {LARGEST_SIZE:g}], got {fraction}")
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


def allocate(scores: Mapping[str, Score], sites: Sequence[Site], budget: RankBudget) -> RankAllocation:
    """Spend a parameter budget on integer ranks.

    Units of rank are dealt one at a time, the next to the site with the largest claim. A score is a claim of
    ``score / (2 * rank + 1)``, which is the Sainte-Laguë (Webster) method of apportionment: ranks come out as the
    proportional shares rounded to the nearest integer. A tuple of scores has the claim of each unit, the first one's
    first. A unit costs ``d_in + d_out``. A site whose next unit does not fit is finished; ties go to the site that
    comes first. A unit without a claim is dealt only if more than 1 % of the budget would remain.

    Args:
        scores: Importance >= 0 for every site, or of every unit of rank at it.
        sites: The sites, in the model's order.
        budget: The parameters to spend, and the bounds of a rank.

    Returns:
        Ranks that never cost more than the budget. The remainder is less than the cheapest unit that could be added
        to a site with a positive score, or at most 1 %.

    Raises:
        ValueError: A score is missing, unknown, negative or not finite, or ``budget`` buys no unit of rank at all or
            not even ``low`` everywhere.

    Source:
        Balinski and Young, "Fair Representation" (1982), on divisor methods.
    """
    _check_scores(scores, sites)
    caps = {site.name: min(budget.high or site.max_rank, site.max_rank) for site in sites}
    ranks = {site.name: min(budget.low, caps[site.name]) for site in sites}
    remaining = budget.params - sum(site.cost * ranks[site.name] for site in sites)
    if remaining < 0:
        raise ValueError(f"budget {budget.params} is too small for rank {budget.low} at each of {len(sites)} sites")
    remaining = _deal(sites, _rounded(scores), ranks, caps, remaining)
    if remaining > UNSPENT_TOLERANCE * budget.params:
        remaining = _deal(sites, dict.fromkeys(scores, 1.0), ranks, caps, remaining)
    if not any(ranks.values()):
        cheapest = min(site.cost for site in sites)
        raise ValueError(f"budget {budget.params} is too small for any rank: one unit costs at least {cheapest}")
    return RankAllocation(ranks=ranks, params=budget.params - remaining)


def _deal(
    sites: Sequence[Site], scores: Mapping[str, Score], ranks: dict[str, int], caps: Mapping[str, int], remaining: int
) -> int:
    """Raise ``ranks`` in place, best claim first, and return the remaining budget."""
    queue = [(-_claim(scores[site.name], ranks[site.name]), index) for index, site in enumerate(sites)]
    heapq.heapify(queue)
    while queue:
        claim, index = heapq.heappop(queue)
        site = sites[index]
        if claim == 0 or site.cost > remaining or ranks[site.name] >= caps[site.name]:
            continue  # `remaining` only falls, so this site is finished
        ranks[site.name] += 1
        remaining -= site.cost
        heapq.heappush(queue, (-_claim(scores[site.name], ranks[site.name]), index))
    return remaining


def _claim(score: Score, rank: int) -> float:
    """Return the claim to its next unit of a site that has ``rank`` units."""
    if isinstance(score, tuple):
        return score[rank] if rank < len(score) else 0.0
    return score / (2 * rank + 1)


def units(score: Score) -> tuple[float, ...]:
    """Return the numbers of a score: one, or one for each unit of rank."""
    return score if isinstance(score, tuple) else (score,)


def _rounded(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Scale to a maximum of 1 and round off float noise, so that mathematically equal scores are equal."""
    largest = max((value for score in scores.values() for value in units(score)), default=0.0)
    if largest == 0:
        return dict.fromkeys(scores, 1.0)  # no site is preferred
    return {
        name: tuple(round(value / largest, 12) for value in score)
        if isinstance(score, tuple)
        else round(score / largest, 12)
        for name, score in scores.items()
    }


def _check_scores(scores: Mapping[str, Score], sites: Sequence[Site]) -> None:
    if not sites:
        raise ValueError("the model has no site to adapt")
    if difference := scores.keys() ^ {site.name for site in sites}:
        raise ValueError(f"scores and sites differ at {sorted(difference)[0]}")
    for name, score in scores.items():
        if not all(math.isfinite(value) and value >= 0 for value in units(score)):
            raise ValueError(f"the score of {name} must be finite and at least 0, got {score}")
