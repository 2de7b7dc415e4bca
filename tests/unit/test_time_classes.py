"""The plugin that knows time classes, on small suites that run inside these tests."""

from pathlib import Path

import pytest

from tests import time_classes
from tests.unit.conftest import FLAGS

pytest_plugins = ["pytester"]


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
    marked = markers("def test_a(): pass\n@pytest.mark.search\n@pytest.mark.timeout(7)\ndef test_b(): pass")
    assert "unit" in marked["test_a"]
    assert marked["test_a"]["timeout"].args[0] >= time_classes.LIMITS["unit"].hang_seconds
    assert "unit" not in marked["test_b"]
    assert marked["test_b"]["timeout"].args == (7,)


def test_two_classes_are_refused_by_the_tests_name(run):
    source = "import pytest\n@pytest.mark.search\n@pytest.mark.cluster\ndef test_both(): pass"
    result = run(test_it=source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["test_it.py::test_both has 2 time classes, search and cluster: keep one"])


@pytest.mark.parametrize("name", ["cluster", "browser", "server", "smoke"])
def test_what_needs_much_is_thorough(markers, name):
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
    groups = {name: marks.get("xdist_group") for name, marks in markers(source).items()}
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
    source = f"import pytest, sys\n@pytest.fixture\ndef starts():\n    {how}\ndef test_it(starts): pass"
    run(test_it=source).assert_outcomes(errors=1)


def test_a_shared_fixture_may_start_processes_but_nothing_that_the_unit_test_does_after_it(run):
    source = f"""
import pytest, sys
@pytest.fixture(scope="module")
def shared(): {STARTING}
@pytest.fixture
def starts(shared): {STARTING}
def test_has_a_fixture_that_starts(starts): pass
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
    pytester.makepyfile(
        test_a=source.format("finished"), test_b=source.format("finished"), test_c=source.format("alone")
    )
    result = pytester.runpytest_subprocess(*FLAGS, "-n2", "--dist=loadgroup", "-v")
    result.assert_outcomes(passed=12)
    workers = {line.split()[0] for line in result.outlines if "PASSED" in line and "@finished" in line and "%" in line}
    assert len(workers) == 1, result.outlines
