"""A time limit that is kept: what may still begin, by how fast this search has trained so far.

A search that is late shortens in this order. No further trials are searched once half of the time is over, or later if
all planned seeds find theirs in the rest; each strategy has one. Then there are fewer seeds, whole ones, though two,
which a verdict takes. Then controls have fewer seeds, or none. What has begun is trained to its end.
"""

from collections.abc import Callable, Sequence
from typing import Any

from analysis.results.trial_config import Phase, TrialConfig
from strategies import CONTROLS
from tuning.plan.search_plan import SearchPlan
from tuning.plan.time_limit import FEWEST_SEEDS, trial_seconds
from tuning.state.record import Record


class Deadline:
    """Says of each trial whether there is time for it.

    Args:
        plan: The search; it has a time limit.
        record: Its own.
        steps: Optimizer steps of a trial that is trained in full.
        run_seconds: About how long that takes, as long as nothing is measured.
        spent: Returns the seconds that the search has taken so far, those of its earlier runs among them.

    Attributes:
        kept_out: Whether there was no time for a trial.
    """

    def __init__(
        self, plan: SearchPlan, record: Record, steps: int, run_seconds: float, spent: Callable[[], float]
    ) -> None:
        self._plan, self._record, self._steps, self._run_seconds, self._spent = plan, record, steps, run_seconds, spent
        self._began = spent(), self._runs()
        self.kept_out = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out: Ray pickles searchers into its snapshot, which is not read."""
        return {}

    @property
    def left(self) -> float:
        """Seconds that trials may still take."""
        return trial_seconds(self._plan) - self._spent()

    @property
    def run_seconds(self) -> float:
        """Seconds of wall time for each trial in full, however many are trained at once."""
        seconds, runs = self._began
        trained = self._runs() - runs
        return (self._spent() - seconds) / trained if trained >= 1 else self._run_seconds

    def may_search(self) -> bool:
        """Return whether another trial of the search may begin, so that the seeds after it still find their time.

        These are the planned ones, or as many as half of all the time has room for at the pace that was measured.
        """
        begun = sum(config.phase == Phase.SEARCH for config in self._record.configs.values())
        if begun < len(self._plan.strategies):
            return True
        of_seed = len(self._plan.strategies) + len(CONTROLS)
        in_half = int(trial_seconds(self._plan) / 2 / self.run_seconds / of_seed)
        seeds = min(self._plan.first_seeds, max(FEWEST_SEEDS, in_half))
        after = seeds * of_seed + min(seeds, self._plan.size_seeds) * len(self._plan.sizes_tried)
        return self._has((1 + after) * self.run_seconds)

    def may_confirm(self, config: TrialConfig, wanted: Sequence[TrialConfig]) -> bool:
        """Return whether a confirmation run may begin: one of a seed of which there are some, or have time.

        Args:
            config: The run.
            wanted: All of its stage, itself among them.
        """
        number = (config.seed or 0) - self._plan.seed
        of_seed = {other.trial_id for other in wanted if other.seed == config.seed}
        if (number <= FEWEST_SEEDS and config.control_of is None) or of_seed & self._record.configs.keys():
            return True
        controls = 0 if config.control_of else len(CONTROLS) * number
        return self._has((len(of_seed) + controls) * self.run_seconds)

    def _has(self, seconds: float) -> bool:
        """Return whether so much time is left, and what one trial beside others takes longer than its share of it."""
        longest = max((row.training_time_seconds or 0.0 for row in self._record.rows.values()), default=0.0)
        has_time = self.left >= seconds + max(0.0, longest - self.run_seconds)
        self.kept_out = self.kept_out or not has_time
        return has_time

    def _runs(self) -> float:
        """Return how many trials in full the steps are that were trained so far."""
        ended = sum(int(row.history[-1]["step"]) for row in self._record.rows.values() if row.history)
        running = sum(max(reports) for reports in self._record.reports.values() if reports)
        return (ended + running) / self._steps
