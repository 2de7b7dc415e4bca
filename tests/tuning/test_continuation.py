"""What may be changed about a search that is taken up again, before anything is trained."""

import json

import pytest

from tuning.continuation import changed_plan
from tuning.plan import SearchPlan

PLAN = SearchPlan(name="x", strategies=("baseline", "linear_decay"))


@pytest.mark.parametrize(
    ("plan", "given", "extend", "culprit"),
    [
        (SearchPlan(name="x", official=True), {}, 5, "--extend 5"),
        (PLAN, {"objective": "loss,params"}, 0, "--objective loss,params"),
        (PLAN, {"strategies": ("baseline", "eva")}, 0, "trials of linear_decay"),
    ],
)
def test_what_no_search_could_go_on_with_is_refused_whatever_is_allowed(plan, given, extend, culprit):
    with pytest.raises(ValueError, match=culprit):
        changed_plan(plan, given, extend)


def test_a_strategy_may_be_added_and_trials_may_be():
    wanted, changes = changed_plan(PLAN, {"strategies": ("baseline", "linear_decay", "eva")}, 4)
    assert (wanted.num_samples, len(changes)) == (PLAN.num_samples + 4, 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--batch-size", "256"], "--batch-size is 8, not 256; go on as it began"),
        (["--batch-size", "2000"], "--batch-size 2000: more than --train-examples 1000"),
        (["--num-samples", "0"], "--num-samples 0: must be greater than or equal to 1"),
    ],
)
def test_choices_are_held_against_the_search_and_not_against_defaults(flags, said, refused, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "plan.json").write_text(json.dumps({"train_examples": 1000}))
    assert said in refused("--resume", "x", "--runs-dir", tmp_path, *flags)
