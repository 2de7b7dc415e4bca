from dataclasses import replace

import pytest

from analysis.results import journal
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, TrialConfig
from tuning.state.record import Record

CONFIG = TrialConfig("baseline", "t001", learning_rate=0.1)
ROW = ResultRow("t001", "baseline_t001", "baseline", "finished", final_eval_loss=1.5)


@pytest.fixture
def record(tmp_path):
    """One trial that ended, one of which a report is known, one confirmation run that has just begun."""
    record = Record(tmp_path)
    record.planned(plan={"seed": 3}, search_id="abc", command="tune.py", versions={}, changes=[])
    record.began(CONFIG, turn=0)
    record.reported("t001", {"step": 5, "eval_loss": 2.0})
    record.ended(ROW)
    record.repeated(replace(CONFIG, trial_id=""), turn=1, same_as="t001", values=[1.5])
    record.began(replace(CONFIG, trial_id="t002"), turn=1)
    record.reported("t002", {"step": 5, "eval_loss": 3.0})
    record.reported("t002", {"step": 5, "eval_loss": 2.5})
    record.began(replace(CONFIG, trial_id="c1", phase=Phase.CONFIRM))
    record.restarted("t002")
    record.short_of("8 slots did not fit")
    record.short_of("8 slots did not fit")
    record.ran_out("baseline")
    record.base_measured({"eval_loss": 4.5})
    record.base_measured({"eval_loss": 9.5, "test_loss": 4.75})
    record.shrunk("t001", [{"fraction": 1.0, "params": 8, "test_loss": 1.5}])
    return record


NOTED = (
    "rows",
    "suggestions",
    "configs",
    "exhausted",
    "reports",
    "restarts",
    "resource_events",
    "shrink",
    "base_losses",
    "plans",
    "exit_status",
)


def test_a_record_read_anew_knows_what_was_noted(record, tmp_path):
    again = Record(tmp_path)
    assert {name: getattr(again, name) for name in NOTED} == {name: getattr(record, name) for name in NOTED}
    assert again.damage == []


def test_what_has_begun_and_not_ended_is_unfinished_in_its_phase(record):
    assert [config.trial_id for config in record.unfinished(Phase.SEARCH)] == ["t002"]
    assert [config.trial_id for config in record.unfinished(Phase.CONFIRM)] == ["c1"]
    assert record.reports == {"t002": {5: {"step": 5, "eval_loss": 2.5}}}
    assert record.of_phase(Phase.SEARCH) == [ROW]


def test_a_search_is_complete_until_something_is_noted_again(record, tmp_path):
    assert record.exit_status is None
    record.completed(3)
    assert Record(tmp_path).exit_status == 3
    record.planned(plan={}, search_id="abc", command="tune.py --extend 2", versions={}, changes=[])
    assert Record(tmp_path).exit_status is None


def test_a_strategy_that_ran_out_may_have_something_new_once_the_plan_was_changed(record, tmp_path):
    facts = {"plan": {}, "search_id": "abc", "command": "", "versions": {}}
    record.planned(**facts, changes=[])
    assert record.exhausted == Record(tmp_path).exhausted == {"baseline"}
    record.planned(**facts, changes=["--budget-rank is 2, not 4"])
    assert record.exhausted == Record(tmp_path).exhausted == set()


def test_of_a_base_that_changes_may_have_made_another_nothing_is_known(record, tmp_path):
    facts = {"plan": {}, "search_id": "abc", "command": "", "versions": {}}
    record.planned(**facts, changes=[])
    assert record.base_losses == Record(tmp_path).base_losses == {"eval_loss": 4.5, "test_loss": 4.75}
    record.planned(**facts, changes=["--seed is 2, not 4"])
    assert record.base_losses == Record(tmp_path).base_losses == {}


def test_a_trial_that_begins_anew_has_reported_nothing(record, tmp_path):
    record.began_anew("t002")
    assert record.reports == Record(tmp_path).reports == {}


def test_what_was_judged_is_counted_once_for_each_plan(record, tmp_path):
    for trials in (20, 20, 25):
        record.judged(f"{trials} trials")
    assert list(Record(tmp_path).looks) == ["20 trials", "25 trials"]


def test_of_two_rows_of_a_trial_the_last_counts(record, tmp_path):
    record.ended(ResultRow("t001", "baseline_t001", "baseline", "finished", phase="superseded", final_eval_loss=1.5))
    assert Record(tmp_path).rows["t001"].phase == "superseded"


@pytest.mark.parametrize("name", ["rows.jsonl", "record.jsonl"])
@pytest.mark.parametrize("eighth", range(8))
def test_a_file_cut_at_any_eighth_is_named_and_the_rest_is_used(record, tmp_path, name, eighth):
    record.completed(0)
    whole = (tmp_path / name).read_bytes()
    kept = whole[: len(whole) * eighth // 8]
    (tmp_path / name).write_bytes(kept)
    again = Record(tmp_path)
    cut = bool(kept) and not kept.endswith(b"\n")
    assert len(again.damage) == cut
    assert all(f"{tmp_path / name}, line {kept.count(10) + 1}: cut off" in line for line in again.damage)
    if name == "record.jsonl":
        assert again.exit_status is None
        assert again.rows == {"t001": ROW}
    else:
        assert again.suggestions == record.suggestions


@pytest.mark.parametrize("name", ["rows.jsonl", "record.jsonl"])
def test_a_changed_byte_is_named_and_makes_the_search_go_on(record, tmp_path, name):
    record.completed(0)
    path = tmp_path / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        again = Record(tmp_path)
        assert again.damage
        assert again.exit_status is None


@pytest.mark.parametrize("name", ["rows.jsonl", "record.jsonl"])
def test_a_search_completed_without_a_damaged_line_is_complete_until_another_is_damaged(record, tmp_path, name):
    record.ended(replace(ROW, trial_id="t002"))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-10])
    again = Record(tmp_path)
    assert len(again.damage) == 1
    if name == "rows.jsonl":
        again.ended(replace(ROW, trial_id="t002"))
    again.completed(3)
    once_more = Record(tmp_path)
    assert (once_more.exit_status, once_more.damage) == (3, [])
    whole = path.read_bytes()
    path.write_bytes(whole[:9] + bytes([whole[9] ^ 4]) + whole[10:])
    last = Record(tmp_path)
    assert last.exit_status is None
    assert [line for line in last.damage if f"{path}, line 1: " in line] == last.damage


@pytest.mark.parametrize(
    "event",
    [
        {"event": "began", "trial_id": "../../X", "config": CONFIG.to_ray(), "turn": 0},
        {"event": "began", "trial_id": "t009", "config": {"strategy": "../x"}, "turn": 0},
        {"event": "began", "trial_id": "t009", "config": {"strategy": ["baseline"]}, "turn": 0},
        {"event": "began", "trial_id": "t009", "config": {"strategy": "baseline", "baseline": 5}, "turn": 0},
        {"event": "began", "trial_id": "t009", "config": CONFIG.to_ray() | {"seed": "x"}, "turn": 0},
        {"event": "began", "trial_id": "t009", "config": CONFIG.to_ray(), "turn": -1},
        {"event": "reported", "trial_id": "t001", "report": {"eval_loss": 1.0}},
        {"event": "reported", "trial_id": "t001", "report": {"step": 1}},
        {"event": "shrunk", "trial_id": "t001", "curve": [{}]},
        {"event": "reported", "trial_id": "t001", "report": {"step": 1, "eval_loss": "low"}},
        {"event": "repeated", "config": CONFIG.to_ray(), "turn": 0, "same_as": 5, "values": None},
        {"event": "planned", "plan": [], "command": "", "changes": []},
        {"event": "planned", "plan": {}, "command": "", "changes": [5]},
        {"event": "shrunk", "trial_id": "t001", "curve": [{"fraction": "all"}]},
        {"event": "wrote", "trial_id": "t001", "samples": [{"prompt": 5}], "note": ""},
        {"event": "wrote", "trial_id": "../t001", "samples": [], "note": ""},
        {"event": "base", "losses": {"eval_loss": None}},
        {"event": "bracket", "trials": [{"steps": 8, "eval_loss": 2.5}]},
        {"event": "bracket", "trials": [{"learning_rate": None, "steps": 8, "eval_loss": 2.5}]},
        {"event": "bracket", "trials": [{"learning_rate": 0.1, "steps": 8, "eval_loss": "low"}]},
        {"event": "began", "trial_id": "t001", "config": CONFIG.to_ray(), "turn": 0, "around": 0.1},
        {"event": "handed_out", "trial_id": "t001", "folders": {"best_adapter": [2.5]}},
        {"event": "handed_out", "trial_id": "t001", "folders": {"best_adapter/..": 2.5}},
        {"event": "handed_out", "trial_id": "t001", "folders": {"/home/me/project": 2.5}},
        {"event": "completed", "exit_status": "0"},
        {"event": "completed", "exit_status": 256},
        {"event": ["planned"]},
        {"event": None},
    ],
)  # fmt: skip
def test_a_line_that_no_search_writes_is_named_and_changes_nothing(record, tmp_path, event):
    before = Record(tmp_path)
    journal.append(tmp_path / "record.jsonl", event)
    again = Record(tmp_path)
    (line,) = again.damage
    assert line.startswith(f"{tmp_path / 'record.jsonl'}, line 15: no line of a record (")
    assert {name: getattr(again, name) for name in NOTED} == {name: getattr(before, name) for name in NOTED}


def test_an_event_that_this_version_does_not_know_is_passed_over(record, tmp_path):
    journal.append(tmp_path / "record.jsonl", {"event": "applauded", "self": 1})
    assert Record(tmp_path).damage == []
