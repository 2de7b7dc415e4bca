"""Small suites that run inside tests, under the suite's own plugins."""

import pytest

# A timer of the run inside would end this one's, and only the project's own settings know the markers.
FLAGS = ["-p", "tests.time_classes", "-p", "tests.shares", "-p", "no:timeout", "-p", "no:cacheprovider",
         "-W", "ignore", "-rA"]  # fmt: skip


@pytest.fixture
def run(pytester):
    """A function that runs test files, given as keywords, under the plugins."""

    def run(*flags, **files):
        pytester.makepyfile(**files)
        return pytester.runpytest_inprocess(*FLAGS, *flags)

    return run
