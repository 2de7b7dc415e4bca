"""What a search shows while it runs."""

import io

import pytest
from rich.console import Console

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from tuning.callbacks.progress import Progress

REPORT = {"eval_loss": 2.0, "step": 8, "trainable_parameters": 10, "seconds": 1.5}


def follow(console):
    """Show three trials of four: finished, diverged, running."""
    with Progress(4, console=console) as progress:
        for trial_id in ("a", "b", "c"):
            progress.started(TrialConfig("baseline", trial_id))
            progress.reported(trial_id, REPORT)
        progress.ended(ResultRow("a", "baseline_a", "baseline", "finished", final_eval_loss=1.25))
        progress.ended(ResultRow("b", "baseline_b", "baseline", "diverged", error="at step [4]"))
    return console.file.getvalue()


def test_where_there_is_no_terminal_an_ended_trial_is_one_plain_line():
    lines = follow(Console(file=io.StringIO(), force_terminal=False)).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("1/4  baseline_a  10  8  1.2500  finished")
    assert "diverged: at step [4]" in lines[1]
    assert "best 1.2500 (baseline_a)" in lines[1]
    assert "left" in lines[1]


def test_a_terminal_shows_one_table_with_every_trial():
    text = follow(Console(file=io.StringIO(), force_terminal=True, width=120))
    last = text.split("of 4 trials ended")[-1]
    for cell in ("baseline_a", "1.2500", "finished", "diverged", "baseline_c", "running"):
        assert cell in last


@pytest.mark.parametrize(("reports", "left"), [(0, "not known yet"), (1, "about 0:00:30 left in this phase")])
def test_time_left_follows_the_reports_of_ended_trials(reports, left, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr("tuning.callbacks.progress.time.monotonic", lambda: next(clock))
    console = Console(file=io.StringIO(), force_terminal=False)
    progress = Progress(4, console=console)
    for trial_id in list("a")[:reports]:
        progress.started(TrialConfig("baseline", trial_id))
        progress.reported(trial_id, REPORT)
        progress.ended(ResultRow(trial_id, trial_id, "baseline", "finished", final_eval_loss=1.0))
    assert left in (console.file.getvalue() or progress._time_left())
