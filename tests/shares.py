"""A pytest plugin that deals the thorough tests out into shares, of which each CI runs one.

``--share K/N`` leaves out the thorough tests of the other shares; ``smoke`` tests are in every one. A file's tests stay
together, and each share takes about as long, by a table of what the thorough tests of each file took.
"""

import collections
import json

import pytest

SECONDS_TABLE = "tests/minutes.json"
UNKNOWN_FILE_SECONDS = 30.0


def pytest_addoption(parser):
    group = parser.getgroup("shares")
    group.addoption("--share", metavar="K/N", help="of the thorough tests run share K of N, and all smoke tests")
    group.addoption("--write-minutes", action="store_true", help=f"note what this run's files take in {SECONDS_TABLE}")


def pytest_configure(config):
    if config.getoption("share"):
        _read_share(config.getoption("share"))  # a bad one is refused here, before workers start
    if config.getoption("write_minutes") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FileSeconds(config.rootpath))


def pytest_collection_modifyitems(config, items):
    if not config.getoption("share"):
        return
    number, count = _read_share(config.getoption("share"))
    dealt = [item for item in items if _is_dealt(item.keywords)]
    table = _read_seconds(config.rootpath)
    files = partition({file: table.get(file, UNKNOWN_FILE_SECONDS) for file in map(_file_of, dealt)}, count)[number - 1]
    others = {item for item in dealt if _file_of(item) not in files}
    config.hook.pytest_deselected(items=list(others))
    items[:] = [item for item in items if item not in others]
    line = f"Share {number} of {count} of the thorough tests: {', '.join(sorted(files)) or 'no file'}"
    config.stash[share_line] = line
    if hasattr(config, "workeroutput"):
        config.workeroutput["share"] = line


share_line = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if not error and "share" in node.workeroutput:
        node.config.stash[share_line] = node.workeroutput["share"]


def pytest_terminal_summary(terminalreporter, config):
    if line := config.stash.get(share_line, None):
        terminalreporter.line(line)


def _is_dealt(keywords):
    return "thorough" in keywords and "smoke" not in keywords


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


class FileSeconds:
    """Adds up what each file's thorough tests take, and writes the table that balances the shares."""

    def __init__(self, root):
        self.root, self.seconds = root, collections.Counter()

    def pytest_runtest_logreport(self, report):
        if _is_dealt(report.keywords):
            self.seconds[_file_of(report)] += report.duration

    def pytest_sessionfinish(self):
        merged = {**_read_seconds(self.root), **{file: round(taken) for file, taken in self.seconds.items()}}
        present = {file: merged[file] for file in sorted(merged) if (self.root / file).is_file()}
        (self.root / SECONDS_TABLE).write_text(json.dumps(present, indent=2) + "\n")
