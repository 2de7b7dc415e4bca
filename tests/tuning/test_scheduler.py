import math
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from tuning.plan import SearchPlan
from tuning.scheduler import StrategyASHA, make_scheduler


class Rungs:
    """Feeds reports to a scheduler as Ray does."""

    def __init__(self):
        self.scheduler, self.count = StrategyASHA(reports=4), 0

    def add(self, strategy):
        self.count += 1
        trial = SimpleNamespace(trial_id=str(self.count), config={"strategy": strategy})
        self.scheduler.on_trial_add(None, trial)
        return trial

    def report(self, trial, loss, iteration=1):
        return self.scheduler.on_trial_result(None, trial, {"training_iteration": iteration, "eval_loss": loss})


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_its_trial_and_leaves_the_rung_as_it_was(loss):
    rungs = Rungs()
    for _ in range(3):
        assert rungs.report(rungs.add("a"), loss) == TrialScheduler.STOP
    assert rungs.report(rungs.add("a"), 1.0) == TrialScheduler.CONTINUE
    assert rungs.report(rungs.add("a"), 2.0) == TrialScheduler.STOP
    assert rungs.report(rungs.add("a"), 0.5) == TrialScheduler.CONTINUE


def test_a_strategy_is_compared_with_itself_only():
    rungs = Rungs()
    assert rungs.report(rungs.add("a"), 1.0) == TrialScheduler.CONTINUE
    assert rungs.report(rungs.add("b"), 9.0) == TrialScheduler.CONTINUE
    assert rungs.report(rungs.add("a"), 2.0) == TrialScheduler.STOP
    assert rungs.report(rungs.add("b"), 8.0) == TrialScheduler.CONTINUE


def test_the_trial_that_is_best_at_every_report_reaches_the_last():
    rungs = Rungs()
    for _ in range(4):
        rungs.report(rungs.add("a"), 2.0)
    best = rungs.add("a")
    assert [rungs.report(best, 1.0, iteration) for iteration in (1, 2, 3)] == [TrialScheduler.CONTINUE] * 3
    assert rungs.report(best, 1.0, 4) == TrialScheduler.STOP


def test_a_final_loss_that_is_not_finite_is_forgotten():
    rungs = Rungs()
    trial = rungs.add("a")
    rungs.scheduler.on_trial_complete(None, trial, {"training_iteration": 1, "eval_loss": math.nan})
    assert rungs.report(rungs.add("a"), 5.0) == TrialScheduler.CONTINUE


def test_fifo_stops_no_trial_early():
    assert not isinstance(make_scheduler(SearchPlan(scheduler="fifo")), StrategyASHA)
    assert isinstance(make_scheduler(SearchPlan()), StrategyASHA)
