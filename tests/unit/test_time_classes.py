"""The plugin that knows time classes, on small suites that run inside these tests."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import time_classes

pytest_plugins = ["pytester"]
# A timer of the run inside would end this one's, and only the project's own settings know the markers.
FLAGS = ["-p", "tests.time_classes", "-p", "no:timeout", "-p", "no:cacheprovider", "-W", "ignore", "-rA"]


@pytest.fixture
def run(pytester):
    """A function that runs test files, given as keywords, under the plugin."""

    def run(*flags, **files):
        pytester.makepyfile(**files)
        return pytester.runpytest_inprocess(*FLAGS, *flags)

    return run


@pytest.fixture
def markers(pytester):
    """A function that returns which markers the tests of a file get."""

    def collect(source):
        path = pytester.makepyfile(test_it="import pytest\n" + source)
        items, _ = pytester.inline_genitems(path, *FLAGS)
        return {item.name: {mark.name: mark for mark in item.iter_markers()} for item in items}

    return collect


# What starting a process does first; this starts none.
STARTING = "sys.audit('subprocess.Popen', 'git', [], None, None)"
SWALLOWED = f"try: {STARTING}\n    except BaseException: pass"


def test_a_test_without_a_class_is_a_unit_test_and_every_test_has_a_timeout(markers):
    found = markers("def test_a(): pass\n@pytest.mark.search\n@pytest.mark.timeout(7)\ndef test_b(): pass")
    assert "unit" in found["test_a"]
    assert found["test_a"]["timeout"].args[0] >= time_classes.LIMITS["unit"].hang_seconds
    assert "unit" not in found["test_b"]
    assert found["test_b"]["timeout"].args == (7,)


def test_two_classes_are_refused_by_the_tests_name(run):
    source = "import pytest\n@pytest.mark.search\n@pytest.mark.cluster\ndef test_both(): pass"
    result = run(test_it=source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["test_it.py::test_both has 2 time classes, search and cluster: keep one"])


@pytest.mark.parametrize("name", ["cluster", "browser", "server", "smoke", "alone"])
def test_what_needs_much_or_the_machine_for_itself_is_thorough(markers, name):
    assert "thorough" in markers(f"@pytest.mark.{name}\ndef test_it(): pass")["test_it"]


@pytest.mark.parametrize("name", ["unit", "search", "process"])
def test_the_other_classes_are_thorough_only_where_marked(markers, name):
    assert "thorough" not in markers(f"@pytest.mark.{name}\ndef test_it(): pass")["test_it"]


def test_tests_that_share_a_fixture_share_a_worker(markers):
    source = """
@pytest.fixture
def finished(): pass
@pytest.fixture
def copied(finished): pass
@pytest.fixture
def cluster(): pass
def test_read(copied): pass
def test_both(copied, cluster): pass
def test_alone(): pass
"""
    groups = {name: found.get("xdist_group") for name, found in markers(source).items()}
    assert groups["test_read"].args == ("finished",)
    assert groups["test_both"].args == ("cluster",)
    assert groups["test_alone"] is None


SLOW = "@pytest.mark.search\ndef test_slow():\n    time.sleep(0.02)\n"


@pytest.fixture
def short_searches(monkeypatch):
    monkeypatch.setitem(time_classes.LIMITS, "search", time_classes.Limits(0.01, 60))
    monkeypatch.setenv("TIME_CLASS_SLACK", "1")


def test_a_test_slower_than_its_class_fails_with_one_line(run, short_searches):
    result = run(test_it=f"import pytest, time\n{SLOW}def test_fast(): pass")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["test_it.py::test_slow took * s; a search test may take 0.01 s: *"])


@pytest.mark.parametrize(
    ("name", "seconds", "advice"),
    [
        ("unit", 5.1, "make it faster or mark it search"),
        ("search", 121, "make it faster or mark it process"),
        ("process", 241, "make it faster or mark it cluster"),
        ("unit", 301, "no class allows that, make it faster"),
    ],
)
def test_the_line_names_the_class_that_would_be_right(name, seconds, advice):
    assert time_classes.too_slow(name, seconds, slack=1).endswith(f": {advice}")
    assert time_classes.too_slow(name, time_classes.LIMITS[name].call_seconds, slack=1) is None


def test_slack_lengthens_the_limit(run, short_searches, monkeypatch):
    monkeypatch.setenv("TIME_CLASS_SLACK", "1000")
    run(test_it=f"import pytest, time\n{SLOW}").assert_outcomes(passed=1)


def test_a_test_that_is_the_first_to_load_a_large_library_is_not_judged(run, short_searches):
    load = "sys.modules.update({f'part{number}': sys for number in range(200)})"
    result = run(test_it=f"import pytest, sys, time\n{SLOW}    {load}")
    result.assert_outcomes(passed=1)


def test_slow_fixtures_do_not_count(run, short_searches):
    source = "import pytest, time\n@pytest.fixture\ndef slow(): time.sleep(0.02)\n"
    run(test_it=source + "@pytest.mark.search\ndef test_it(slow): pass").assert_outcomes(passed=1)


@pytest.mark.parametrize("how", [STARTING, SWALLOWED], ids=["raised", "swallowed"])
def test_a_unit_test_that_starts_a_process_fails(run, how):
    result = run(test_it=f"import sys\ndef test_it():\n    {how}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a unit test started a process (subprocess.Popen git): *"])


@pytest.mark.parametrize("how", [STARTING, SWALLOWED], ids=["raised", "swallowed"])
def test_so_does_its_own_fixture(run, how):
    source = f"import pytest, sys\n@pytest.fixture\ndef own():\n    {how}\ndef test_it(own): pass"
    run(test_it=source).assert_outcomes(errors=1)


def test_a_shared_fixture_may_start_processes_but_nothing_that_the_unit_test_does_after_it(run):
    source = f"""
import pytest, sys
@pytest.fixture(scope="module")
def shared(): {STARTING}
@pytest.fixture
def own(shared): {STARTING}
def test_has_a_fixture_that_starts(own): pass
def test_starts(shared): {STARTING}
def test_reads(shared): pass
"""
    run(test_it=source).assert_outcomes(passed=1, failed=1, errors=1)


def test_a_module_may_ask_the_system_while_it_is_imported(run):
    run(asks=f"import sys\n{STARTING}", test_it="def test_it(): import asks").assert_outcomes(passed=1)


@pytest.mark.process
@pytest.mark.thorough
def test_pytest_xdist_keeps_a_group_on_one_worker(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(time_classes.__file__).parents[1]))
    source = "import pytest\n@pytest.fixture\ndef {0}(): pass\n@pytest.mark.parametrize('number', range(4))\n"
    source += "def test_it({0}, number): pass\n"
    pytester.makepyfile(test_a=source.format("finished"), test_b=source.format("finished"), test_c=source.format("own"))
    result = pytester.runpytest_subprocess(*FLAGS, "-n2", "--dist=loadgroup", "-v")
    result.assert_outcomes(passed=12)
    workers = {line.split()[0] for line in result.outlines if "PASSED" in line and "@finished" in line and "%" in line}
    assert len(workers) == 1, result.outlines


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 9))
def test_each_file_is_in_exactly_one_share_and_no_share_has_a_file_too_many(taken, count):
    seconds = {f"test_{number}.py": value for number, value in enumerate(taken)}
    shares = time_classes.partition(seconds, count)
    assert len(shares) == count
    assert sorted(file for share in shares for file in share) == sorted(seconds)
    totals = [sum(seconds[file] for file in share) for share in shares]
    assert max(totals) - min(totals) <= max(taken, default=0)


def test_the_longest_files_are_dealt_out_first():
    assert time_classes.partition({"a": 30, "b": 50, "c": 30, "d": 10}, 2) == [["b", "d"], ["a", "c"]]


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
def test_shares_run_every_thorough_test_once_and_no_other(run, suite, count):
    shares = [passed(run("--share", f"{number}/{count}", **suite)) for number in range(1, count + 1)]
    expected = {f"{file}.py::test_it[{number}]" for file in suite for number in range(3)}
    assert sum(map(len, shares)) == len(expected)
    assert set().union(*shares) == expected
    files = [{test.partition("::")[0] for test in share} for share in shares]
    assert sum(map(len, files)) == len(suite)


def test_the_table_of_seconds_balances_the_shares(run, suite, pytester):
    pytester.mkdir("tests")
    (pytester.path / "tests/minutes.json").write_text(json.dumps({"test_a.py": 50, "test_b.py": 10, "test_c.py": 20}))
    result = run("--share", "2/2", **suite)
    assert {test.partition("::")[0] for test in passed(result)} == {"test_b.py", "test_c.py"}
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
