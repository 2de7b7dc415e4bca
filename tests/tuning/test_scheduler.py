import math
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from trainables.training.losses import learning_rate_factor
from tuning.callbacks.trial_callback import row_from
from tuning.plan.search_plan import SearchPlan
from tuning.state.record import Record
from tuning.trials.asha import StrategyASHA, make_scheduler


class Rungs:
    """Feeds reports to a scheduler as Ray does."""

    def __init__(self):
        self.scheduler, self.count = StrategyASHA(reports=4), 0

    def add(self, strategy):
        self.count += 1
        trial = SimpleNamespace(trial_id="Ray's", config={"strategy": strategy, "trial_id": str(self.count)})
        self.scheduler.on_trial_add(None, trial)
        return trial

    def report(self, trial, loss, iteration=1):
        return self.scheduler.on_trial_result(None, trial, {"report": iteration, "eval_loss": loss})


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
    rungs.scheduler.on_trial_complete(None, trial, {"report": 1, "eval_loss": math.nan})
    assert rungs.report(rungs.add("a"), 5.0) == TrialScheduler.CONTINUE


def test_fifo_stops_no_trial_early(tmp_path):
    assert not isinstance(make_scheduler(SearchPlan(scheduler="fifo"), Record(tmp_path)), StrategyASHA)
    assert isinstance(make_scheduler(SearchPlan(), Record(tmp_path)), StrategyASHA)


def test_no_trial_is_judged_before_its_learning_rate_has_risen(tmp_path):
    """Of 100 steps the rate rises in 6, and of 20 reports the first is after 5."""
    plan = SearchPlan(reports=20, epochs=1, train_examples=800)
    assert plan.workload(RankBudget(1)).steps == 100
    rungs = Rungs()
    rungs.scheduler = make_scheduler(plan, Record(tmp_path))
    assert rungs.report(rungs.add("a"), 1.0) == TrialScheduler.CONTINUE
    late = rungs.add("a")
    assert rungs.report(late, 9.0) == TrialScheduler.CONTINUE
    assert rungs.report(rungs.add("a"), 1.0, 2) == TrialScheduler.CONTINUE
    assert rungs.report(late, 9.0, 2) == TrialScheduler.STOP


@pytest.mark.parametrize("reports", [1, 4, 16, 17, 20, 60, 1000])
@pytest.mark.parametrize("steps", [1, 5, 42, 75, 100, 750])
def test_the_first_report_after_warm_up_is_the_first_at_which_the_highest_rate_was_trained_with(steps, reports):
    workload = SearchPlan(reports=reports, epochs=1, batch_size=1, train_examples=steps).workload(RankBudget(1))
    rates = [learning_rate_factor(step, steps, workload.warmup) for step in range(steps)]
    ends = [*range(math.ceil(steps / reports), steps, math.ceil(steps / reports)), steps]
    first = next(number for number, end in enumerate(ends, 1) if max(rates[:end]) == max(rates))
    assert workload.first_report_after_warmup == first


def test_rungs_are_made_anew_from_the_record(tmp_path):
    """Ended trials reported 1, 3 and 5, an unfinished one 2 before its checkpoint, and the median of all is 2.5."""
    record = Record(tmp_path)
    for number, loss in ((1, 1.0), (2, 3.0), (3, 5.0)):
        config = TrialConfig("a", f"t00{number}")
        record.began(config)
        record.ended(row_from(config, {"status": "finished", "eval_loss": loss}, [{"step": 5, "eval_loss": loss}]))
    record.began(TrialConfig("a", "t004"))
    record.reported("t004", {"step": 5, "eval_loss": 2.0})
    rungs = Rungs()
    record.reported("t004", {"step": 10, "eval_loss": 0.5})
    rungs.scheduler = make_scheduler(SearchPlan(), Record(tmp_path), {"t004": 10})
    assert rungs.report(rungs.add("a"), 2.6) == TrialScheduler.STOP
    taken_up = SimpleNamespace(trial_id="another of Ray's", config={"strategy": "a", "trial_id": "t004"})
    rungs.scheduler.on_trial_add(None, taken_up)
    assert rungs.report(taken_up, 9.0) == TrialScheduler.CONTINUE, "its first report was judged before"
    assert rungs.report(rungs.add("a"), 2.55) == TrialScheduler.CONTINUE, "and 9.0 is not in the rung"
    assert rungs.report(taken_up, 9.0, 2) == TrialScheduler.CONTINUE, "nobody else was there"
    last = rungs.add("a")
    assert rungs.report(last, 1.0) == TrialScheduler.CONTINUE
    assert rungs.report(last, 8.0, 2) == TrialScheduler.CONTINUE, "what it reports again is judged again: 9.0, not 0.5"
