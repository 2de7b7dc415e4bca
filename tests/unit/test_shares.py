"""The plugin that deals thorough tests out into shares, on small suites that run inside these tests."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import shares

pytest_plugins = ["pytester"]


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 9))
def test_each_file_is_in_exactly_one_share_and_no_share_has_a_file_too_many(taken, count):
    seconds = {f"test_{number}.py": value for number, value in enumerate(taken)}
    dealt = shares.partition(seconds, count)
    assert len(dealt) == count
    assert sorted(file for share in dealt for file in share) == sorted(seconds)
    totals = [sum(seconds[file] for file in share) for share in dealt]
    assert max(totals) - min(totals) <= max(taken, default=0)


def test_the_longest_files_are_dealt_out_first():
    assert shares.partition({"a": 30, "b": 50, "c": 30, "d": 10}, 2) == [["b", "d"], ["a", "c"]]


@pytest.fixture
def suite():
    """Three files with thorough tests, of which one has a smoke test and one a quick test beside it."""
    thorough = "import pytest\n@pytest.mark.thorough\n@pytest.mark.parametrize('number', range(3))\n"
    thorough += "def test_it(number): pass\n"
    return {
        "test_a": thorough,
        "test_b": thorough + "@pytest.mark.smoke\ndef test_smoke(): pass\n",
        "test_c": thorough + "def test_quick(): pass\n",
    }


def passed(result):
    return {line.removeprefix("PASSED ") for line in result.outlines if line.startswith("PASSED")}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_shares_run_every_thorough_test_once_and_the_others_always(run, suite, count):
    ran = [passed(run("--share", f"{number}/{count}", **suite)) for number in range(1, count + 1)]
    always = {"test_b.py::test_smoke", "test_c.py::test_quick"}
    assert all(always <= share for share in ran)
    ran = [share - always for share in ran]
    expected = {f"{file}.py::test_it[{number}]" for file in suite for number in range(3)}
    assert sum(map(len, ran)) == len(expected)
    assert set().union(*ran) == expected
    files = [{test.partition("::")[0] for test in share} for share in ran]
    assert sum(map(len, files)) == len(suite), "a file's tests stay together"


def test_the_table_of_seconds_balances_the_shares(run, suite, pytester):
    pytester.mkdir("tests")
    (pytester.path / "tests/minutes.json").write_text(json.dumps({"test_a.py": 50, "test_b.py": 10, "test_c.py": 20}))
    result = run("--share", "2/2", **suite)
    assert {test.partition("::")[0] for test in passed(result) if "test_it" in test} == {"test_b.py", "test_c.py"}
    result.stdout.fnmatch_lines(["Share 2 of 2 of the thorough tests: test_b.py, test_c.py"])


def test_a_run_can_note_what_its_files_take(run, suite, pytester):
    pytester.mkdir("tests")
    table = pytester.path / "tests/minutes.json"
    table.write_text(json.dumps({"test_gone.py": 50, "test_b.py": 10}))
    run("--write-minutes", "test_a.py", **suite)
    assert json.loads(table.read_text()) == {"test_a.py": 0, "test_b.py": 10}


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_refused(run, share):
    result = run(f"--share={share}", test_it="def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--share {share}: give K/N with K from 1 to N"])
