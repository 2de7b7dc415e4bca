"""Names in the code: phases and statuses by their enums, and none of the words that others replace."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.results.trial_config import Phase, Status
from tuning.lifecycle.timeline import Stage

ROOT = Path(__file__).parents[2]
ASKED = {"phase", "status", "stage"}
SAID = {*Phase, *Status, *Stage}
SAMPLES = {
    "run.phase == 'confirm'": True,
    "row.status in {'failed', other}": True,
    "Row(phase='search')": True,
    "run.phase == Phase.CONFIRM": False,
    "scaling == 'search'": False,
}


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def bare_strings(tree: ast.AST) -> list[int]:
    """Return the lines on which a phase, a stage or a status is a string of its own."""
    values: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and ASKED & {_name(side) for side in (node.left, *node.comparators)}:
            values += [node.left, *node.comparators]
        elif isinstance(node, ast.keyword) and node.arg in ASKED:
            values.append(node.value)
    constants = (inner for value in values for inner in ast.walk(value) if isinstance(inner, ast.Constant))
    return [inner.lineno for inner in constants if inner.value in SAID]


@pytest.mark.parametrize(("line", "is_bare"), SAMPLES.items())
def test_a_bare_string_is_seen(line, is_bare):
    assert bool(bare_strings(ast.parse(line))) is is_bare


def test_no_phase_and_no_status_is_a_bare_string():
    bare = {path: lines for path, tree in sources("tuning", "analysis") if (lines := bare_strings(tree))}
    assert bare == {}
