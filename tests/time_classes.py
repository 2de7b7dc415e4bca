"""A pytest plugin: how long a test may take, what it may start, if it is thorough, and beside which others it runs.

A test has exactly one class, which is a marker, and ``unit`` if it has none.
"""

import contextlib
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
ALWAYS_THOROUGH = ("cluster", "browser", "server", "smoke", "smollm2")
# Tests that use one of these fixtures run on one worker, which makes it once; the first line that fits decides.
FIXTURE_GROUPS = {
    "cluster": "cluster",
    "postgres": "cluster",
    "server": "mlflow",
    "mlflow_server": "mlflow",
    "front": "front",
    "finished": "finished",
    "shared_ray": "ray",
}
PROCESS_EVENTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system"}
MANY_MODULES = 200  # a test that loads as many is the first to need a large library; its time is not judged
processor_seconds = pytest.StashKey[float]()  # which other work on the machine does not lengthen
modules_loaded = pytest.StashKey[int]()
own_timeout = pytest.StashKey[bool]()  # whether a test has one, which is then its only limit

_started: list[str] | None = None  # what the unit test that runs now tried to start; None while processes may start


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


@pytest.hookimpl(tryfirst=True)  # before -m and --share choose tests and before pytest-xdist reads their groups
def pytest_collection_modifyitems(config, items):
    for item in items:
        _add_markers(item)
    items.sort(key=lambda item: -LIMITS[_class_of(item)].call_seconds)  # long ones first: no worker ends much later


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
