"""The five experiments of the seed report, as data.

The report gives names, strategies and trainable parameters; on GPT-2 Medium every count is that of a whole mean rank.
Its per-layer shapes were never applied, so the shapes here are this project's reading of the names, chosen so that each
costs exactly what the report says. A shape is stretched to the depth of the model at hand; the mean rank stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.allocation import RankAllocation, RankBudget, allocate
from strategies.base import Site, relative_depth


@dataclass(frozen=True, slots=True)
class OfficialExperiment:
    """One row of the seed report.

    Args:
        name: Its experiment name in the report.
        strategy: Its strategy name in the report.
        mean_rank: Trainable parameters over those of one rank at every site.
        depth_profile: Relative importance from the lowest to the highest block, evenly spaced.
        attention_weight: Importance of attention sites against 1 for MLP sites.
    """

    name: str
    strategy: str
    mean_rank: int
    depth_profile: tuple[float, ...] = (1.0,)
    attention_weight: float = 1.0

    def scores(self, sites: Sequence[Site]) -> dict[str, float]:
        """Return the importance of each site, the depth profile interpolated to this model's depth."""
        knots = np.linspace(0.0, 1.0, len(self.depth_profile))
        return {
            site.name: float(np.interp(relative_depth(site, sites), knots, self.depth_profile))
            * (self.attention_weight if site.kind == "attention" else 1.0)
            for site in sites
        }

    def allocation(self, sites: Sequence[Site]) -> RankAllocation:
        """Return the ranks on this model."""
        return allocate(self.scores(sites), sites, RankBudget.like_uniform(self.mean_rank, sites))


OFFICIAL: tuple[OfficialExperiment, ...] = (
    OfficialExperiment("adaptive_empirical_official", "empirical", 9, depth_profile=(0.5, 1.0, 1.5, 1.0)),
    OfficialExperiment("adaptive_linear_decay_official", "linear_decay", 16, depth_profile=(1.5, 0.5)),
    OfficialExperiment("adaptive_attention_heavy_official", "attention_heavy", 13, attention_weight=3.0),
    OfficialExperiment("baseline_rank8_official", "baseline", 8),
    OfficialExperiment("baseline_rank16_official", "baseline", 16),
)
