"""A search over configurations that are all known beforehand."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from tuning.study import METRIC


class FixedSearch(Searcher):  # type: ignore[misc]
    """Hands out given configurations, one after the other, and learns nothing from them."""

    def __init__(self, configs: Iterable[dict[str, Any]]) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._left = list(configs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next configuration."""
        return self._left.pop(0) if self._left else str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Write what is left to hand out."""
        Path(checkpoint_path).write_text(json.dumps(self._left))

    def restore(self, checkpoint_path: str) -> None:
        """Continue from ``save``'s file."""
        self._left = json.loads(Path(checkpoint_path).read_text())
