"""A search over configurations that are all known beforehand."""

from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.search import Searcher

from analysis.results.trial_config import TrialConfig
from tuning.state.record import Record
from tuning.trials.optuna_search import METRIC


class FixedSearch(Searcher):  # type: ignore[misc]
    """Hands out given configurations, one after the other, and learns nothing from them.

    Args:
        configs: Each with its ``trial_id``; those that have ended already are left out.
        record: Where each is noted before it is handed out.
        may_begin: Returns whether there is time for one; where there is none, it is the last that was asked about.
    """

    def __init__(
        self,
        configs: Iterable[TrialConfig],
        record: Record,
        may_begin: Callable[[TrialConfig], bool] = lambda config: True,
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._record, self._may_begin = record, may_begin
        self._left = [config for config in configs if config.trial_id not in record.rows]

    def __len__(self) -> int:
        """Return how many are left."""
        return len(self._left)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next configuration."""
        if self._left and not self._may_begin(self._left[0]):
            self._left.clear()
        if not self._left:
            return str(Searcher.FINISHED)
        config = self._left.pop(0)
        if config.trial_id not in self._record.configs:
            self._record.began(config)
        return config.to_ray()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the record has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""
