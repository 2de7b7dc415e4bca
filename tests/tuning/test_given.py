"""Data that a program hands over: which of its columns are saved, and which cells are refused."""

import datetime
import decimal
import json
from pathlib import Path

import pandas
import pytest

from tuning import SearchPlan

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
