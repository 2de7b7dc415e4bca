"""Where a search's wall time goes."""

import json
import logging
import math
from types import SimpleNamespace

import psutil
import pytest

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from tuning.callbacks.trial_log import TrialLog
from tuning.lifecycle import process
from tuning.lifecycle.timeline import Stage, Timeline
from tuning.state.continuation import seconds_so_far


class Clock:
    """It shows what a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timeline(clock):
    """Of a search whose process began three seconds ago."""
    return Timeline(Stage.IMPORTS, 3.0, clock)


def test_each_stage_has_the_time_until_the_next_one(timeline, clock):
    for now, stage in ((100.0, Stage.CHECKS), (102.5, Stage.RAY), (107.0, Stage.TRIALS), (167.0, Stage.REPORT)):
        clock.now = now
        timeline.enter(stage)
    clock.now = 168.0
    assert timeline.seconds == {"imports": 3.0, "checks": 2.5, "ray": 4.5, "trials": 60.0, "report": 1.0}
    assert sum(timeline.seconds.values()) == 168 - 100 + 3, "nothing is lost between stages, nor counted twice"


def test_a_stage_that_comes_again_has_both_times_and_stands_where_it_always_does(timeline, clock, caplog):
    caplog.set_level(logging.INFO, "tuning")
    for now, stage in ((101.0, Stage.CHECKS), (103.0, Stage.RAY), (104.0, Stage.CHECKS), (104.5, Stage.CHECKS)):
        clock.now = now
        timeline.enter(stage)
    clock.now = 110.0
    assert timeline.seconds == {"imports": 4.0, "checks": 2 + 6, "ray": 1.0}
    assert [*timeline.seconds] == ["imports", "checks", "ray"]
    assert caplog.messages == ["imports took 4.000 s", "checks took 2.000 s", "ray took 1.000 s"]


def test_what_earlier_runs_took_is_added_also_of_stages_that_are_none_any_more(timeline, clock):
    timeline.add({"imports": 10.0, "trials": 50.0, "warm-up": 7.0})
    clock.now = 101.0
    timeline.enter(Stage.TRIALS)
    clock.now = 103.0
    assert timeline.seconds == {"imports": 10 + 4, "trials": 50 + 2, "warm-up": 7.0}
    assert timeline.seconds == {"imports": 14, "trials": 52, "warm-up": 7}, "reading it changes nothing"


def test_the_first_report_of_any_trial_ends_the_first_step_and_no_other_does(timeline, clock):
    heard = TrialLog(timeline)
    timeline.enter(Stage.FIRST_STEP)
    clock.now = 102.0
    heard.started(TrialConfig("baseline", "a"))
    heard.ended(ResultRow("b", "b", "baseline", "failed", error="it died"))
    clock.now = 105.0
    heard.reported("a", {"step": 4})
    assert (timeline.stage, timeline.seconds["first_step"]) == (Stage.TRIALS, 5.0)
    clock.now = 106.0
    timeline.enter(Stage.CONFIRMATION)
    heard.reported("c", {"step": 4})
    assert timeline.stage == Stage.CONFIRMATION


def test_a_searchs_own_process_counts_from_its_start_and_no_other(monkeypatch):
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(create_time=lambda: 1000.0))
    monkeypatch.setattr(process, "_counts_from_its_start", False)
    monkeypatch.setattr(process.time, "time", lambda: 1004.5)
    assert process.seconds_before_search() == 0
    process.count_from_its_start()
    assert process.seconds_before_search() == 4.5
    monkeypatch.setattr(process.time, "time", lambda: 900.0)
    assert process.seconds_before_search() == 0, "a clock that was set back"


@pytest.mark.parametrize(
    ("noted", "read"),
    [
        ({"seconds": {"imports": 3, "trials": 2.5}}, {"imports": 3, "trials": 2.5}),
        ({"seconds": {"imports": True, "ray": "4", "loading": None, "trials": -1, "checks": math.inf, "report": 1}},
         {"report": 1}),
        ({"seconds": [1, 2]}, {}),
        ({"engine": "packed"}, {}),
        ([], {}),
    ],
)  # fmt: skip
def test_of_earlier_seconds_what_is_no_time_is_left_out(tmp_path, noted, read):
    (tmp_path / "facts.json").write_text(json.dumps(noted))
    assert seconds_so_far(tmp_path) == read


def test_a_folder_without_facts_has_no_earlier_seconds(tmp_path):
    assert seconds_so_far(tmp_path) == {}


@pytest.mark.process
def test_the_stages_of_a_real_search_are_all_of_its_wall_time(finished):
    """From the start of its process until its last file is written."""
    seconds = json.loads((finished.folder / "facts.json").read_text())["seconds"]
    assert [*seconds] == [stage.value for stage in Stage]
    wall = (finished.folder / "facts.json").stat().st_mtime - finished.began
    assert 0.95 * wall < sum(seconds.values()) < wall + 0.5
    before = sum(value for stage, value in seconds.items() if stage != "report")
    assert (
        f"- **Wall time before the report:** {before:,.1f} s (imports " in (finished.folder / "report.md").read_text()
    )
    assert seconds["imports"] > 1
    assert f"report {seconds['report']:,.1f} s" not in (finished.folder / "report.md").read_text()
