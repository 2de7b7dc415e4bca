"""Break the line behind each promise of docs/testing.md, one at a time, and see its test fail.

``python -m tests.mutants [WORD]`` reads the tables there that have the columns ``promise | test | tier | change that
breaks it``, and takes the rows in which the word occurs. Tests stand in backticks, as pytest takes them. A change reads

    `path/file.py`: `old text` -> `new text`

with text of one line that occurs once in the file. A pipe in a cell is written ``\\|``, in code as well, and text that
has a backtick stands in two of them, with a space at each end if it begins or ends with one, as always in Markdown.
A row whose change is empty or ``-`` is left out. The checkout itself is never changed: all happens in a copy.
"""

import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = "docs/testing.md"
COLUMNS = ["promise", "test", "tier", "change that breaks it"]
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
TESTS_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change to one file, and the tests that must fail with it."""

    promise: str
    tests: list[str]
    path: str
    old: str
    new: str

    def mutate(self, text: str) -> str:
        """Return a file's text with the change.

        Raises:
            ValueError: If the old text does not occur exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"`{self.old}` occurs {count} times in {self.path}; it must occur once")
        return text.replace(self.old, self.new)


def read_rows(text):
    """Return (line number, cells) of each row of the tables that have the columns; rows may be longer or shorter."""
    rows, inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip().startswith("|"):
            inside = False
            continue
        inner = line.strip().removeprefix("|").removesuffix("|")
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]
        if [cell.lower() for cell in cells] == COLUMNS:
            inside = True
        elif inside and not re.fullmatch(r"[\s|:-]+", line):
            rows.append((number, cells))
    return rows


def read_code(cell):
    """Return the text of each code span of a cell, and the text between them with ``{}`` for each span."""
    spans = [match[2] for match in CODE.finditer(cell)]
    spans = [text[1:-1] if text[0] == text[-1] == " " and text.strip() else text for text in spans]
    return spans, CODE.sub("{}", cell)


def read_mutant(cells):
    """Return the mutant of a row, or None if the row has no change.

    Raises:
        ValueError: If the row is not what the module's description says.
    """
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells; a row has {len(COLUMNS)}, and a pipe within one is written \\|")
    promise, test, _, change = cells
    if change in ("", "-"):
        return None
    spans, between = read_code(change)
    if re.fullmatch(r"\{\}: ?\{\} ?(->|→) ?\{\}", between) is None:
        raise ValueError(f"cannot read the change {change!r}; it reads `path/file.py`: `old text` -> `new text`")
    tests, _ = read_code(test)
    if not tests:
        raise ValueError("no test in backticks")
    return Mutant(promise, tests, *spans)


def copy_checkout(folder):
    """Copy the files that git tracks, or would if asked, into an empty folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def run_tests(folder, tests):
    """Run tests that ``make test`` runs; return pytest's exit status and the line that tells most."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",  # a change and its undoing within a second look the same to the cache
        "TIME_CLASS_SLACK": "10",  # a test must fail for the change, not for the time
    }
    command = [sys.executable, "-m", "pytest", "-m", "not thorough", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TESTS_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None, f"the tests did not end within {TESTS_SECONDS} s"
    lines = (done.stdout + done.stderr).strip().splitlines() or ["nothing printed"]
    return done.returncode, next((line for line in lines if line.startswith(("ERROR", "FAILED"))), lines[-1])


def judge(folder, mutant):
    """Run a mutant's tests with its change, undo it, and return ``killed``, ``SURVIVED`` or ``error: ...``."""
    path = folder / mutant.path
    if not path.is_file():
        return f"error: there is no file {mutant.path}"
    before = path.read_text()
    try:
        path.write_text(mutant.mutate(before))
        status, line = run_tests(folder, mutant.tests)
    except ValueError as error:
        return f"error: {error}"
    finally:
        path.write_text(before)
    return {0: "SURVIVED", 1: "killed"}.get(status, f"error: pytest ended with {status}: {line}")


def main(word=""):
    """Judge the mutants of the rows with a word; return 0 if all are killed."""
    mutants, verdicts = [], collections.Counter()
    for number, cells in read_rows((ROOT / TABLE).read_text()):
        if word.lower() not in " ".join(cells).lower():
            continue
        try:
            mutants += filter(None, [read_mutant(cells)])
        except ValueError as error:
            print(f"error: {error} ({TABLE}, line {number})", flush=True)
            verdicts["error"] += 1
    if not mutants:
        print(f"no row of {TABLE} with {word!r} has a change")
        return 1
    with tempfile.TemporaryDirectory(prefix="mutants") as name:
        folder = Path(name)
        copy_checkout(folder)
        status, line = run_tests(folder, sorted({test for mutant in mutants for test in mutant.tests}))
        if status != 0:
            print(f"the tests fail without any change: {line}")
            return 1
        for mutant in mutants:
            start = time.monotonic()
            verdict = judge(folder, mutant)
            verdicts[verdict.partition(":")[0]] += 1
            print(f"{verdict} ({time.monotonic() - start:.0f} s) {mutant.path}: {mutant.promise}", flush=True)
    print(f"{verdicts['killed']} killed, {verdicts['SURVIVED']} survived, {verdicts['error']} errors")
    return 0 if verdicts["killed"] == verdicts.total() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
