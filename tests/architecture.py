"""The tree of docs/architecture.md, of the first line of each module: ``python -m tests.architecture`` writes it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("strategies", "trainables", "tuning", "analysis")
BEFORE, AFTER = "```text tree\n", "```\n"


def tree():
    """Return a line for each package, room and module."""
    lines = []
    for package in PACKAGES:
        lines += [_line(ROOT / package, 0), *_modules(ROOT / package, 1)]
        for room in sorted(path.parent for path in (ROOT / package).glob("*/__init__.py")):
            lines += [_line(room, 1), *_modules(room, 2)]
    return "".join(f"{line}\n" for line in lines)


def _modules(folder, depth):
    return [_line(path, depth) for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]


def _line(path, depth):
    module = path / "__init__.py" if path.is_dir() else path
    name = "  " * depth + path.name + ("/" if path.is_dir() else "")
    return f"{name:<27}{ast.get_docstring(ast.parse(module.read_text())).splitlines()[0]}"


def split(text):
    """Return what stands before the tree, the tree, and what stands after it."""
    head, _, rest = text.partition(BEFORE)
    made, _, tail = rest.partition(AFTER)
    return head + BEFORE, made, AFTER + tail


if __name__ == "__main__":
    head, _, tail = split(PAGE.read_text())
    PAGE.write_text(head + tree() + tail)
