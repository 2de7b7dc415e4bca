"""A pytest plugin: how long a test may take, what it may start, and in which runs and beside which others it runs.

A test has exactly one class, which is a marker, and ``unit`` if it has none. ``thorough`` tests run in
``make test-all`` only; of these, ``smoke`` tests run in every CI and the others as one share of several.
"""

import collections
import contextlib
import json
import os
import sys
import time
from typing import NamedTuple

import pytest
from _pytest import nodeid


class Limits(NamedTuple):
    """How long one test may take."""

    call_seconds: float  # of the test's own code; a longer one fails. Of a unit test the processor's, else the clock's
    hang_seconds: float  # fixtures included: a unit test may be the first to ask for a search that others share


LIMITS = {
    "unit": Limits(5, 600),  # starts no process
    "search": Limits(120, 300),  # a search in this process
    "process": Limits(240, 600),  # real processes are its subject
    "cluster": Limits(300, 600),
    "browser": Limits(120, 300),
    "server": Limits(120, 300),
}
ALWAYS_THOROUGH = ("cluster", "browser", "server", "smoke", "alone")
# Tests that use one of these fixtures run on one worker, which makes it once; the first line that fits decides.
FIXTURE_GROUPS = {
    "cluster": "cluster",
    "postgres": "cluster",
    "server": "mlflow",
    "mlflow_server": "mlflow",
    "front": "front",
    "finished": "finished",
}
PROCESS_EVENTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system"}
SECONDS_TABLE = "tests/minutes.json"
UNKNOWN_FILE_SECONDS = 30.0
MANY_MODULES = 200  # a test that loads as many is the first to need a large library; its time is not judged
processor_seconds = pytest.StashKey[float]()  # which other work on the machine does not lengthen
modules_loaded = pytest.StashKey[int]()
own_timeout = pytest.StashKey[bool]()  # whether a test has one, which is then its only limit

_started: list[str] | None = None  # what the unit test that runs now tried to start; None while processes may start


def pytest_addoption(parser):
    group = parser.getgroup("time classes")
    group.addoption("--share", metavar="K/N", help="run share K of N of the thorough tests that are not smoke tests")
    group.addoption("--write-minutes", action="store_true", help=f"note what this run's files take in {SECONDS_TABLE}")


def pytest_configure(config):
    if config.getoption("share"):
        _read_share(config.getoption("share"))  # a bad one is refused here, before workers start
    if config.getoption("write_minutes") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FileSeconds(config.rootpath))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    for item in report.result if report.passed else []:
        classes = _classes_of(item)
        if isinstance(item, pytest.Item) and len(classes) > 1:
            report.outcome, report.result = "failed", []
            report.longrepr = f"{item.nodeid} has {len(classes)} time classes, {' and '.join(classes)}: keep one"
            break
    return report


@pytest.hookimpl(tryfirst=True)  # before -m chooses tests and before pytest-xdist reads their groups
def pytest_collection_modifyitems(config, items):
    for item in items:
        _add_markers(item)
    if config.getoption("share"):
        _keep_share(config, items)


def _add_markers(item):
    if not _classes_of(item):
        item.add_marker("unit")
    if any(item.get_closest_marker(name) for name in ALWAYS_THOROUGH):
        item.add_marker("thorough")
    item.stash[own_timeout] = item.get_closest_marker("timeout") is not None
    if not item.stash[own_timeout]:
        item.add_marker(pytest.mark.timeout(LIMITS[_class_of(item)].hang_seconds * _slack()))
    groups = [group for fixture, group in FIXTURE_GROUPS.items() if fixture in getattr(item, "fixturenames", ())]
    if groups and not item.get_closest_marker("xdist_group"):
        item.add_marker(pytest.mark.xdist_group(groups[0]))
    _name_group(item)


def _name_group(item):
    """Add a test's group to its id, by which pytest-xdist sends it to a worker.

    pytest-xdist 3.8 does this itself, but without effect since pytest 9.2 (pytest-xdist's issue 1386).
    """
    mark = item.get_closest_marker("xdist_group")
    if mark and getattr(item.config.option, "loadgroup", False) and hasattr(item, "_id"):
        item._id = nodeid.NodeId.parse(f"{item.nodeid}@{[*mark.args, *mark.kwargs.values()][0]}")


def _classes_of(item):
    return [name for name in LIMITS if item.get_closest_marker(name)]


def _class_of(item):
    return _classes_of(item)[0]


def _slack():
    return float(os.environ.get("TIME_CLASS_SLACK", 1))


# Shares


def _keep_share(config, items):
    number, count = _read_share(config.getoption("share"))
    chosen = [item for item in items if item.get_closest_marker("thorough") and not item.get_closest_marker("smoke")]
    table = _read_seconds(config.rootpath)
    files = partition({file: table.get(file, UNKNOWN_FILE_SECONDS) for file in map(_file_of, chosen)}, count)
    kept = {item for item in chosen if _file_of(item) in files[number - 1]}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def _read_share(text):
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise pytest.UsageError(f"--share {text}: give K/N with K from 1 to N")
    return int(number), int(count)


def _read_seconds(root):
    path = root / SECONDS_TABLE
    return json.loads(path.read_text()) if path.is_file() else {}


def partition(seconds, count):
    """Deal files out into ``count`` lists: the longest file first, each to the list that takes least so far.

    Args:
        seconds: What the tests of each file take.
        count: How many lists there are; some are empty if there are fewer files.
    """
    shares, totals = [[] for _ in range(count)], [0.0] * count
    for file in sorted(seconds, key=lambda file: (-seconds[file], file)):
        shortest = totals.index(min(totals))
        shares[shortest].append(file)
        totals[shortest] += seconds[file]
    return shares


def _file_of(test):
    return test.nodeid.partition("::")[0]


def _share_line(config, files):
    number, count = _read_share(config.getoption("share"))
    return f"Share {number} of {count} of the thorough tests: {', '.join(sorted(set(files))) or 'no test'}"


def pytest_report_collectionfinish(config, items):
    return _share_line(config, map(_file_of, items)) if config.getoption("share") else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    if node.config.getoption("share") and node.gateway.id == "gw0":
        files = [name.partition("::")[0] for name in ids]
        node.config.get_terminal_writer().line("\n" + _share_line(node.config, files))


class FileSeconds:
    """Adds up what each file's thorough tests take, and writes the table that balances the shares."""

    def __init__(self, root):
        self.root, self.seconds = root, collections.Counter()

    def pytest_runtest_logreport(self, report):
        if "thorough" in report.keywords and "smoke" not in report.keywords:
            self.seconds[_file_of(report)] += report.duration

    def pytest_sessionfinish(self):
        merged = {**_read_seconds(self.root), **{file: round(taken) for file, taken in self.seconds.items()}}
        present = {file: merged[file] for file in sorted(merged) if (self.root / file).is_file()}
        (self.root / SECONDS_TABLE).write_text(json.dumps(present, indent=2) + "\n")


# Time


def too_slow(name, seconds, slack):
    """Return what is wrong with a test of a class that took some seconds, or None; slack lengthens all limits."""
    if seconds <= LIMITS[name].call_seconds * slack:
        return None
    fitting = [other for other in LIMITS if seconds <= LIMITS[other].call_seconds * slack]
    advice = f"make it faster or mark it {fitting[0]}" if fitting else "no class allows that, make it faster"
    return f"took {seconds:.1f} s; a {name} test may take {LIMITS[name].call_seconds:g} s: {advice}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    judged = not item.stash[own_timeout] and item.stash.get(modules_loaded, 0) < MANY_MODULES
    if report.when == "call" and report.passed and judged:
        taken = item.stash[processor_seconds] if _class_of(item) == "unit" else report.duration
        line = too_slow(_class_of(item), taken, _slack())
        if line:
            report.outcome, report.longrepr = "failed", f"{item.nodeid} {line}"
    return report


# Processes


def _watch(event, arguments):
    started = _started
    if event in PROCESS_EVENTS and started is not None and not _is_importing():
        started.append(f"{event} {arguments[0]}" if arguments else event)
        _fail_for(started)  # with no Exception: code that is prepared for processes that fail does not catch it


sys.addaudithook(_watch)


def _is_importing():
    """Return True if a module is being loaded: MLflow's import asks ``uname``, in whichever test is the first."""
    frame = sys._getframe()
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _fail_for(started):
    pytest.fail(f"a unit test started a process ({', '.join(started)}): only tests of another class may")


@contextlib.contextmanager
def _noting(started):
    """Note in a list what is started, and refuse it; None allows processes."""
    global _started
    before, _started = _started, started
    try:
        yield
        if started:  # what raised there may have been caught
            _fail_for(started)
    finally:
        _started = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with _noting([] if _class_of(item) == "unit" else None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before, began = len(sys.modules), time.process_time()
    with _noting([] if _class_of(item) == "unit" else None):
        result = yield
    item.stash[processor_seconds] = time.process_time() - began
    item.stash[modules_loaded] = len(sys.modules) - before
    return result


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    with contextlib.nullcontext() if fixturedef.scope == "function" else _noting(None):
        return (yield)
