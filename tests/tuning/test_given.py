"""What a program hands over: data, paths and choices, and how what is wrong with them is refused."""

import datetime
import decimal
import json
import re
import traceback
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest

from analysis.results.trial_config import Phase
from tuning import SearchPlan, SearchResult, resume, search, stages
from tuning.lifecycle import process
from tuning.results import report_again

UNWRITABLE = {
    "time": pandas.Timestamp("2026-01-02"),
    "date": datetime.date(2026, 1, 2),
    "bytes": b"raw",
    "decimal": decimal.Decimal("1.5"),
    "infinite": float("inf"),
}


@pytest.fixture
def saved(tmp_path):
    """A function that returns the rows as a search would save them."""

    def save(rows, **choices):
        plan = SearchPlan(dataset=rows, **choices).with_given_saved(tmp_path / "given")
        return [json.loads(line) for line in Path(plan.dataset).read_text().splitlines()]

    return save


@pytest.mark.parametrize("cell", UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.parametrize("kind", [list, pandas.DataFrame])
def test_a_cell_that_json_cannot_say_is_null_in_a_column_that_no_format_wants(saved, kind, cell):
    assert saved(kind([{"text": "a", "when": cell}])) == [{"text": "a", "when": None}]


@pytest.mark.parametrize("column", ["text", "system", "history"])
def test_it_is_refused_by_its_row_and_column_where_a_format_may_want_it(saved, column):
    with pytest.raises(ValueError, match=rf"^dataset: row 1, column '{column}' cannot be written as JSON \(") as error:
        saved([{"text": "a"}, {"text": "b", column: b"raw"}])
    assert "\n" not in str(error.value)


def test_it_is_refused_in_a_column_that_the_plan_names(saved):
    with pytest.raises(ValueError, match="row 0, column 'question' cannot be written"):
        saved([{"question": b"raw", "answer": "a"}], prompt_column="question", completion_column="answer")


@pytest.mark.parametrize(
    ("choices", "line"),
    [
        ({"epochs": -1}, "--epochs -1: must be greater than 0"),
        ({"epoch": 1}, "unknown key 'epoch'; known: model, "),
        ({"budget": 1, "budget_rank": 1}, "--budget and --budget-rank are two ways"),
        ({"name": "a\nb"}, "--name 'a\\nb': must be printable"),
    ],
)
def test_a_plan_that_cannot_be_is_a_value_error_of_one_line(choices, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as error:
        SearchPlan(**choices)
    assert "\n" not in str(error.value)


def test_a_plan_that_is_refused_shows_no_password_even_in_its_traceback():
    password = str(7**9)
    with pytest.raises(ValueError, match="a password in a URI would be saved") as error:
        SearchPlan(mlflow_uri=f"http://me:{password}@host:1")
    assert password not in "".join(traceback.format_exception(error.value))


def test_paths_are_taken_as_python_has_them(tmp_path):
    plan = SearchPlan(model=tmp_path, dataset=tmp_path / "a.txt", runs_dir=tmp_path / "runs")
    assert plan == SearchPlan(model=str(tmp_path), dataset=f"{tmp_path}/a.txt", runs_dir=f"{tmp_path}/runs")


def test_a_result_may_be_asked_for_by_a_text():
    folder = Path(__file__).parents[1] / "data" / "run-2026-11-27"
    assert SearchResult(str(folder)) == SearchResult(folder)
    assert len(SearchResult(str(folder)).trials) == len((folder / "rows.jsonl").read_text().splitlines())


def test_where_no_folder_of_runs_is_given_a_search_that_goes_on_is_in_the_usual_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"no search of that name in {tmp_path}/runs"):
        resume("none", runs_dir=None)


def test_a_search_is_not_made_shorter():
    with pytest.raises(ValueError, match=r"^--extend -5: a search keeps the trials that it has; give 0 or more$"):
        resume("none", extend=-5)


def test_a_second_search_beside_one_that_runs_is_refused_and_one_after_it_is_not():
    with stages.watched(None, "first"):
        for begin in (lambda: search(SearchPlan()), lambda: resume("none")):
            with pytest.raises(ValueError, match="another search runs in this process now"):
                begin()
    with stages.watched(None, "second"):
        pass


def test_the_last_words_of_an_earlier_search_are_not_those_of_the_next():
    process.leave_with("Stopped when all was done")
    with stages.watched(None, "next"):
        assert process.last_words() == "Stopped before any trial began"


def test_a_report_needs_no_run_that_the_search_has_ended_without(monkeypatch):
    def wanted(plan, rows):
        return [
            SimpleNamespace(trial_id=name) for name in ("done", "not_in_time", *(["more"] if plan.margin == 2 else []))
        ]

    monkeypatch.setattr(report_again, "confirmations", wanted)
    for name in ("sizes", "controls"):
        monkeypatch.setattr(report_again, name, lambda plan, rows: [])
    of_phase = {Phase.CONFIRM: [SimpleNamespace(trial_id="done")], Phase.SIZES: []}
    record = SimpleNamespace(of_phase=of_phase.get, handout=("best", []))
    assessment = SimpleNamespace(recommended=SimpleNamespace(trial_id="best"), rows=[])
    before = SearchPlan(margin=1)
    assert report_again._is_all_there(SearchPlan(margin=3), record, assessment, before)
    assert not report_again._is_all_there(SearchPlan(margin=2), record, assessment, before), "another run is wanted"
