"""Whatever a file of rows holds, it is read or refused in one line that names it."""

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.results.rows import FIELDS, ResultRow, read_rows, write_rows

ROW = ResultRow(
    "t1", "first", "baseline", "finished", config={"learning_rate": 0.01}, ranks={"h.0": 2}, alphas={"h.0": 4.0},
    fan_in_fan_out=True, trainable_parameters=64, final_eval_loss=4.5, history=({"step": 1, "eval_loss": 5.0},),
)  # fmt: skip
NAMES = st.sampled_from(["rows.jsonl", "rows.csv"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read_or_refused(path):
    """Return (rows, None) or (None, why not) of a file; any exception but ValueError goes through."""
    try:
        return read_rows(path), None
    except ValueError as error:
        return None, str(error)


def is_rows_or_names_the_file(path):
    rows, refusal = read_or_refused(path)
    return str(path) in refusal if rows is None else all(isinstance(row, ResultRow) for row in rows)


@RELAXED
@given(NAMES, st.binary(max_size=200))
def test_any_bytes_are_rows_or_one_line_that_names_the_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert is_rows_or_names_the_file(path)


@RELAXED
@given(NAMES, st.integers(0, 2000), st.integers(1, 8), st.binary(max_size=8))
def test_rows_with_a_piece_replaced_are_rows_or_one_line(tmp_path, name, start, length, piece):
    path = tmp_path / name
    write_rows([ROW, ROW], path)
    content = path.read_bytes()
    start %= len(content)
    path.write_bytes(content[:start] + piece + content[start + length :])
    assert is_rows_or_names_the_file(path)


@RELAXED
@given(st.sampled_from(FIELDS), JSON)
def test_a_row_with_any_value_in_a_field_is_written_back_as_it_was_read_or_refused(tmp_path, field, value):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(asdict(ROW) | {field: value}) + "\n")
    rows, refusal = read_or_refused(path)
    if rows is None:
        assert str(path) in refusal
    else:
        write_rows(rows, path)
        assert read_rows(path) == rows


def test_a_file_of_another_program_may_have_a_mark_carriage_returns_and_a_long_cell(tmp_path):
    path = tmp_path / "rows.csv"
    history = [{"step": step, "eval_loss": 4.0} for step in range(9000)]
    write_rows([replace(ROW, history=tuple(history))], path)
    clean = read_rows(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_rows(path) == clean
    assert len(clean[0].history) == 9000


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"ranks": {"h.0": "two"}}, "ranks must map names to numbers"),
        ({"ranks": [2]}, "ranks must be"),
        ({"tokens": True}, "tokens must be"),
        ({"trial_id": 5}, "trial_id must be"),
        ({"history": [1]}, "history must be"),
        ({"history": [{"eval_loss": 2.0}]}, "each with its step"),
        ({"history": [{"step": {}, "eval_loss": 1.0}]}, "each with its step"),
        ({"history": [{"step": 1, "eval_loss": "x"}]}, "of numbers"),
        ({"config": {"baseline": {"of": ["y"]}}}, "control_of must be"),
        ({"config": {"baseline": {"learning_rate": True}}}, "learning_rate must be"),
        ({"trainable_parameters": -1}, "trainable_parameters must not be below 0"),
        ({"test_loss": 10**400}, "line 1"),
        ({"config": {"x": math.nan}}, "NaN"),
        ({"losss": 1}, "losss"),
    ],
)
def test_a_value_that_would_break_a_report_is_refused_by_its_name(values, culprit, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(asdict(ROW) | values))
    with pytest.raises(ValueError, match=culprit) as caught:
        read_rows(path)
    assert f"{path}, line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "culprit"),
    [
        ("experiment_name,strategy,seed\na,baseline,1\na,baseline,2\n", 3, "a second 'a'"),
        ("experiment_name,strategy,seed\na,baseline,1.5\n", 2, "seed must be a whole number, got '1.5'"),
    ],
)
def test_a_csv_loses_no_row_and_rounds_no_seed(text, line, culprit, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=culprit) as caught:
        read_rows(path)
    assert f"{path}, line {line}" in str(caught.value)
