"""A search's progress as Ray metrics, for Prometheus and Grafana (``deploy/grafana-dashboard.json``)."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status, TrialConfig

TAG = "search"


class Metrics:
    """Hears what happens to trials and sets gauges; Ray exports them on every node's metrics port.

    Args:
        name: The search's, a tag of every value.
    """

    def __init__(self, name: str) -> None:
        tags = {"tag_keys": (TAG,)}
        self.best = Gauge(
            "rank_search_best_eval_loss", "Lowest evaluation loss of the search's finished trials", **tags
        )
        self.speed = Gauge("rank_search_tokens_per_second", "Learned tokens per second, all running trials", **tags)
        self.slots = Gauge("rank_search_slots_in_use", "Trials that run now", **tags)
        self.trials = Gauge("rank_search_trials", "Trials by how they ended, or running", tag_keys=(TAG, "status"))
        for gauge in (self.best, self.speed, self.slots, self.trials):
            gauge.set_default_tags({TAG: name})
        self.running: dict[str, float] = {}
        self.ends: Counter[str] = Counter()
        self.lowest = math.inf

    def started(self, config: TrialConfig) -> None:
        """Count a trial in."""
        self.running[config.trial_id] = 0.0
        self._set()

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Note a trial's speed."""
        self.running[trial_id] = report.get("tokens_per_second") or 0.0
        self._set()

    def ended(self, row: ResultRow) -> None:
        """Count a trial out."""
        self.running.pop(row.trial_id, None)
        self.ends[row.status] += 1
        loss = row.final_eval_loss or math.inf
        if row.status == Status.FINISHED and row.phase == Phase.SEARCH and loss < self.lowest:
            self.lowest = loss
            self.best.set(self.lowest)
        self._set()

    def _set(self) -> None:
        self.speed.set(sum(self.running.values()))
        self.slots.set(len(self.running))
        for status, count in {**self.ends, Status.RUNNING: len(self.running)}.items():
            self.trials.set(count, {"status": status})
