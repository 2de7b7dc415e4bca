"""Early stopping that is fair between strategies and that a NaN cannot disturb."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from analysis.results.trial_config import Phase, TrialConfig
from strategies import RankBudget
from tuning.cluster.ray_compat import RungEntry
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import budget_class
from tuning.state.record import Record
from tuning.trials.optuna_search import METRIC

TIME = "report"


class StrategyASHA(FIFOScheduler):  # type: ignore[misc]
    """One ASHA per strategy and class of budget: a trial is compared only with trials of its own kind.

    With shared rungs the strategy that starts best would stop the others before their learning rate is found; with
    rungs of its own, the best trial of every strategy runs to the end. Where budgets are searched, large ones would
    stop all small ones, and the front of loss and parameters would be a point: trials meet only within a halving.

    A value that is not finite never reaches a rung: ``nan < cutoff`` is false, so ASHA would let the trial run on, and
    a NaN or two infinities make a rung's cutoff NaN, which then cuts nobody. A diverged trial ends itself.

    Args:
        reports: Reports of a full trial.
        first: Number of the first of them at which trials are judged, when their learning rate has risen: rungs are at
            this one, twice as many, four times, …, and the better half goes on at each.

    Source:
        Li et al., A System for Massively Parallel Hyperparameter Tuning (arXiv 1810.05934).
    """

    def __init__(self, reports: int, first: int = 1) -> None:
        super().__init__()
        self._reports, self._first = reports, first
        self._by_kind: dict[tuple[str, int], ASHAScheduler] = {}

    def recall(self, config: TrialConfig, losses: Sequence[float | None]) -> None:
        """Put what a trial reported before an interruption into the rungs; what was decided then stays decided.

        Args:
            config: The trial's.
            losses: One for each of its reports, in order; None where it was not finite.
        """
        asha, entry = self._asha_of(config), RungEntry(config.trial_id)
        asha.on_trial_add(None, entry)
        for number, loss in enumerate(losses, 1):
            if loss is not None:
                asha.on_trial_result(None, entry, {METRIC: loss, TIME: number})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a trial in the ASHA of its kind."""
        asha, entry = self._seen_by(trial)
        asha.on_trial_add(tune_controller, entry)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial whose loss is not finite; let ASHA decide about the others."""
        if not math.isfinite(result.get(METRIC, math.nan)):
            return str(TrialScheduler.STOP)
        asha, entry = self._seen_by(trial)
        return str(asha.on_trial_result(tune_controller, entry, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record a final finite loss."""
        if math.isfinite(result.get(METRIC, math.nan)):
            asha, entry = self._seen_by(trial)
            asha.on_trial_complete(tune_controller, entry, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial that never ran."""
        asha, entry = self._seen_by(trial)
        asha.on_trial_remove(tune_controller, entry)

    def _seen_by(self, trial: Any) -> tuple[ASHAScheduler, RungEntry]:
        """Return the ASHA of a trial of Ray's, and the trial by our id: Ray's does not outlive an interruption."""
        config = TrialConfig.from_ray(trial.config)
        return self._asha_of(config), RungEntry(config.trial_id)

    def _asha_of(self, config: TrialConfig) -> ASHAScheduler:
        kind = (config.strategy, budget_class(config))
        if kind not in self._by_kind:
            self._by_kind[kind] = ASHAScheduler(
                time_attr=TIME,
                metric=METRIC,
                mode="min",
                max_t=self._reports,
                grace_period=self._first,
                reduction_factor=2,
            )
        return self._by_kind[kind]


def make_scheduler(plan: SearchPlan, record: Record, kept_steps: Mapping[str, int] | None = None) -> TrialScheduler:
    """Return the scheduler of a plan's search, with the rungs as the record has them.

    Args:
        plan: The search.
        record: What is known from before.
        kept_steps: Trial id -> optimizer steps that its checkpoint has, of unfinished trials. They report those again,
            and are judged then, since nobody knows what was decided.
    """
    if plan.scheduler == "fifo":
        return FIFOScheduler()
    any_budget = RankBudget(1)  # which has no part in when a trial reports
    scheduler = StrategyASHA(plan.reports, plan.workload(any_budget).first_report_after_warmup)
    for row in record.of_phase(Phase.SEARCH):
        scheduler.recall(row.trial_config, [report.get("eval_loss") for report in row.history])
    for config in record.unfinished(Phase.SEARCH):
        kept, reports = (kept_steps or {}).get(config.trial_id, 0), record.reports.get(config.trial_id, {})
        scheduler.recall(config, [report["eval_loss"] for step, report in reports.items() if step < kept])
    return scheduler
