"""How the table of promises is read; the mutants themselves are run by ``make mutants``."""

import pytest

from tests import mutants

HEADER = "| Promise | Test | Tier | Change that breaks it |\n| --- | --- | --- | --- |\n"
CHANGE = "`a.py`: `x < y` -> `x <= y`"


def read(row):
    ((_, cells),) = mutants.read_rows(HEADER + row)
    return mutants.read_mutant(cells)


def test_a_row_is_read():
    mutant = read(f"| Ties stop | `tests/a.py::test_b`, `tests/c.py` | make test | {CHANGE} |")
    assert mutant == mutants.Mutant("Ties stop", ["tests/a.py::test_b", "tests/c.py"], "a.py", "x < y", "x <= y")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (r"`a \| b`", "a | b"),
        (r"`f(x) -> `y`", None),
        ("``f(`x`)``", "f(`x`)"),
        ("`` `x` ``", "`x`"),
        ("`  x  `", " x "),
        ("`def f() -> int:`", "def f() -> int:"),
        ("`{}`", "{}"),
        (r"`a\nb`", r"a\nb"),
    ],
)
def test_code_is_read_as_markdown_shows_it(code, text):
    row = f"| p | `t` | quick | `a.py`: {code} -> `new` |"
    if text is None:
        with pytest.raises(ValueError, match="cannot read the change"):
            read(row)
    else:
        assert read(row).old == text


def test_only_rows_of_tables_with_these_columns_are_read():
    other = "| a | b | c | d |\n| --- | --- | --- | --- |\n| 1 | 2 | 3 | 4 |\n"
    text = f"{other}\ntext\n\n{HEADER}| p | `t` | quick | - |\n\n{other}\n{HEADER}| q | `t` | quick | - |\n"
    assert [(number, cells[0]) for number, cells in mutants.read_rows(text)] == [(9, "p"), (17, "q")]


@pytest.mark.parametrize("cell", ["  |", " - |", "|"])
def test_a_row_without_a_change_has_no_mutant(cell):
    assert read(f"| p | `t` | quick |{cell}") is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"| p | t | quick | {CHANGE} |", "no test in backticks"),
        ("| p | `t` | quick | `a.py`: remove the line |", "cannot read the change"),
        ("| p | `t` | quick |", "3 cells"),
        ("| p | `t` | quick | `a.py`: `a | b` -> `c` |", "5 cells"),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error(row, message):
    with pytest.raises(ValueError, match=message):
        read(row)


@pytest.mark.parametrize(("text", "count"), [("x > y", 0), ("x < y\nx < y", 2)])
def test_text_that_does_not_occur_once_is_an_error(text, count):
    with pytest.raises(ValueError, match=f"`x < y` occurs {count} times in a.py"):
        read(f"| p | `t` | quick | {CHANGE} |").mutate(text)


def test_a_change_leaves_the_rest_of_the_file():
    assert read(f"| p | `t` | quick | {CHANGE} |").mutate("if x < y:\n    pass\n") == "if x <= y:\n    pass\n"
