"""What may be changed about a search that is taken up again, before anything is trained."""

import json

import pytest

from tuning.continuation import changed_plan, save_plan, saved_plan
from tuning.plan import SearchPlan
from tuning.record import EVENTS, Record

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


@pytest.fixture
def extended(tmp_path):
    """The folder of a search that was extended from 8 trials to 12."""
    folder = tmp_path / "x"
    folder.mkdir()
    record = Record(folder)
    for trials in (8, 12):
        plan = PLAN.model_copy(update={"num_samples": trials})
        save_plan(plan, folder)
        record.planned(plan=plan.model_dump(mode="json"), search_id="abc", command="", versions={}, changes=[])
        record.completed(0)
    return folder


def test_a_damaged_line_of_the_record_undoes_no_extension(extended):
    path = extended / EVENTS
    whole = path.read_bytes()
    first, second, third, _ = whole.splitlines(keepends=True)
    begin = len(first + second)
    for place in range(begin, begin + len(third), 31):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        record = Record(extended)
        assert saved_plan(record).num_samples == 12
        (line,) = record.damage
        assert f"{path}, line 3: " in line
        assert record.exit_status is None


def test_a_plan_that_was_changed_does_not_win_over_the_record(extended):
    save_plan(PLAN.model_copy(update={"num_samples": 9}), extended)
    path = extended / EVENTS
    for damaged in (path.read_bytes(), b"{" + path.read_bytes()):
        path.write_bytes(damaged)
        record = Record(extended)
        assert saved_plan(record).num_samples == 12
        assert "plan.json: it was changed; the record's plan is used" in record.damage[-1]
        assert record.exit_status is None
