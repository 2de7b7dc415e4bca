"""What a search shows while it runs."""

import io

import pytest
from rich.console import Console

from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, TrialConfig
from tuning.callbacks.progress import Ahead, Progress
from tuning.callbacks.terminal import SteadyConsole, Terminal
from tuning.lifecycle.timeline import Stage
from tuning.observer import SearchSize
from tuning.plan.search_plan import SearchPlan

REPORT = {"eval_loss": 2.0, "step": 8, "trainable_parameters": 10, "seconds": 1.5}


def follow(console):
    """Show three trials of four: finished, diverged, running."""
    with Progress(4, console=console) as progress:
        for trial_id in ("a", "b", "c"):
            progress.started(TrialConfig("baseline", trial_id, learning_rate=0.02))
            progress.reported(trial_id, REPORT)
        progress.ended(ResultRow("a", "baseline_a", "baseline", "finished", final_eval_loss=1.25))
        progress.ended(ResultRow("b", "baseline_b", "baseline", "diverged", error="at step [4]"))
    return console.file.getvalue()


def test_where_there_is_no_terminal_an_ended_trial_is_one_plain_line():
    lines = follow(Console(file=io.StringIO(), force_terminal=False)).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("1/4  baseline_lr0.02_a  0.02  10  8  1.2500  finished")
    assert "diverged: at step [4]" in lines[1]
    assert "best 1.2500 (baseline_a)" in lines[1]
    assert "(baseline_a), 0:00:00 elapsed, about" in lines[1]


def test_plain_lora_of_another_size_is_not_called_the_best():
    with Progress(2, console=Console(file=io.StringIO(), force_terminal=False)) as progress:
        for trial_id, phase, loss in (("a", Phase.CONFIRM, 1.25), ("b", Phase.SIZES, 1.0)):
            progress.started(TrialConfig("baseline", trial_id, learning_rate=0.02))
            progress.ended(ResultRow(trial_id, trial_id, "baseline", "finished", phase=phase, final_eval_loss=loss))
    assert progress.best == (1.25, "a")


def test_a_terminal_shows_one_table_with_every_trial():
    text = follow(Console(file=io.StringIO(), force_terminal=True, width=120))
    last = text.split("of 4 ended")[-1]
    for cell in ("baseline_lr0.02_a", "1.2500", "finished", "diverged", "baseline_lr0.02_c", "running"):
        assert cell in last


@pytest.mark.parametrize(
    ("reports", "later", "left"),
    [(0, 0, "not known yet"), (1, 0, "about 0:00:30 left in all"), (1, 2, "about 0:01:50 left in all")],
)
def test_time_left_follows_the_reports_of_ended_trials_and_counts_the_phases_to_come(reports, later, left, monkeypatch):
    clock = iter([0.0, *[10.0] * 9])
    monkeypatch.setattr("tuning.callbacks.progress.time.monotonic", lambda: next(clock))
    console = Console(file=io.StringIO(), force_terminal=False)
    progress = Progress(4, ahead=Ahead(later, reports=4), console=console)
    for trial_id in list("a")[:reports]:
        progress.started(TrialConfig("baseline", trial_id))
        progress.reported(trial_id, REPORT)
        progress.ended(ResultRow(trial_id, trial_id, "baseline", "finished", final_eval_loss=1.0))
    assert left in (console.file.getvalue() or progress._time_left())


def shown(width, height, losses):
    """Return the lines of a table of trials that ended with losses, in this order, and of one that runs."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    with Progress(30, console=console) as progress:
        for number, loss in enumerate(losses):
            trial_id = f"attention_heavy_lr0.00123_t{number:03d}"
            progress.started(TrialConfig("attention_heavy", trial_id, learning_rate=0.00123))
            progress.reported(trial_id, {**REPORT, "trainable_parameters": 12_345_678})
            status = "finished" if loss else "diverged"
            progress.ended(ResultRow(trial_id, trial_id, "attention_heavy", status, final_eval_loss=loss))
        progress.started(TrialConfig("baseline", "running", learning_rate=0.5))
    text = console.file.getvalue()
    return text[text.rindex("Search: ") :].splitlines()


@pytest.mark.parametrize("width", [80, 140])
def test_a_table_is_as_wide_as_its_screen_and_best_first(width):
    lines = shown(width, 40, [3.5, None, 1.5, 2.5])
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if "12,345,678" in line]
    assert [row[-2:] for row in rows] == [
        ["1.5000", "finished"], ["2.5000", "finished"], ["3.5000", "finished"], ["8", "diverged"],
    ]  # fmt: skip
    assert {row[1] for row in rows} == {"0.0012"}
    assert any("0.5" in line and "running" in line for line in lines)


def test_a_table_is_no_higher_than_its_screen():
    lines = shown(80, 20, [1 + number / 100 for number in range(29)])
    assert len(lines) < 20
    assert any("1.0000" in line for line in lines)
    assert any("… 19 more" in line for line in lines)


SIZE = SearchSize(("60 of 60 rows used",), 2_123_456, 32_768, 20, 39, 720.0)


def told(is_terminal):
    """What a terminal shows of a search that begins."""
    console = SteadyConsole(file=io.StringIO(), force_terminal=is_terminal, width=100)
    terminal = Terminal(console)
    terminal.planned(SearchPlan())
    terminal.stage_began(Stage.IMPORTS)
    terminal.planned(SearchPlan(name="it_has_one_now"))
    terminal.stage_began(Stage.CHECKS)
    terminal.sized(SIZE)
    terminal.stage_began(Stage.RAY)
    terminal.stage_began(Stage.CHECKS)
    if is_terminal:
        terminal.noted("runs/[a] :smile:")
    terminal.close()
    return console.file.getvalue()


def test_a_terminal_says_what_was_asked_then_what_is_done_then_how_large_it_is(capsys):
    assert told(is_terminal=False) == ""
    assert capsys.readouterr().out.splitlines() == [
        "20 trials: baseline, linear_decay, attention_heavy, empirical, composite",
        "model bundled",
        "data pydoc",
        "budget that of plain LoRA of rank 2, then 3 fresh seeds for the verdict",
        "Loading libraries …",
        "Reading model and data …",
        "60 of 60 rows used",
        "2,123,456 parameters, of which a trial trains at most 32,768; 20 trials and at most 39 more: "
        "about 12 minutes if one follows the other",
        "Starting Ray …",
    ]


def test_on_a_screen_what_is_done_is_one_line_that_changes_and_the_cursor_stays(capsys):
    text = told(is_terminal=True)
    assert "runs/[a] :smile:" in text
    assert text.index("Loading libraries") < text.index("Reading model") < text.index("Starting Ray")
    assert "Starting" not in capsys.readouterr().out, "it would stay there"
    console = SteadyConsole(file=io.StringIO(), force_terminal=True)
    with Progress(4, console=console) as progress:
        progress.started(TrialConfig("baseline", "a"))
    assert "\x1b[?25l" not in text + console.file.getvalue(), "a process that ends at once could not show it again"


def test_time_left_counts_all_phases_to_come_and_the_looks_that_are_likely():
    plan, terminal = SearchPlan(strategies=("baseline", "linear_decay"), confirm_seeds="auto"), Terminal()
    terminal._plan = plan
    confirmations, controls = plan.likely_confirmations, plan.likely_controls
    assert terminal._ahead(Phase.SEARCH, 20).later == confirmations + controls
    assert terminal._ahead(Stage.CONFIRMATION, 10).later == confirmations - 10 + controls, "of the first look"
    assert terminal._ahead(Stage.CONFIRMATION, 5).later == confirmations - 15 + controls
    assert terminal._ahead(Stage.CONFIRMATION, 99).later == controls, "later looks than the likely ones"
    assert terminal._ahead(Stage.CONTROLS, 20).later == 0


def test_where_seeds_are_given_only_controls_follow_confirmation():
    terminal = Terminal()
    terminal._plan = SearchPlan(strategies=("baseline", "linear_decay"), confirm_seeds=3)
    assert terminal._ahead(Stage.CONFIRMATION, 2).later == terminal._plan.likely_controls


def test_a_search_that_goes_on_has_taken_what_its_earlier_runs_took(tmp_path, capsys):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "facts.json").write_text('{"seconds": {"trials": 100.0, "report": 20.0}}')
    terminal = Terminal()
    terminal.planned(SearchPlan(runs_dir=tmp_path, name="first"))
    assert 120 <= terminal._ahead(Phase.SEARCH, 20).elapsed_seconds < 180
