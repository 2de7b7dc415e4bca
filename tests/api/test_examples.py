"""The examples, as a reader would run them; what trains does nothing, so that they take seconds."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import strategies
from tuning import command

EXAMPLES = Path(__file__).parents[2] / "examples"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(path.name for path in EXAMPLES.glob("*.md") if path.name != "README.md")


@pytest.fixture
def run(simulated, tmp_path, monkeypatch):
    """A function that runs one block after the other: a command for each line of a shell, and Python in one scope."""
    for name in ("begin_search", "end_without_collecting"):
        monkeypatch.setattr(command.process, name, lambda: None)
    monkeypatch.setattr(command.process, "_program", "lora-rank-search")
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "example"}

    def each(kind, text):
        if kind == "python":
            exec(compile(text, "example", "exec"), scope)
        for line in text.strip().splitlines() if kind == "sh" else ():
            program, *words = shlex.split(line)
            assert program == "lora-rank-search"
            assert command.run(words) == 0
        return scope

    return each


@pytest.mark.search
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(run, page, capsys):
    blocks = BLOCK.findall((EXAMPLES / page).read_text())
    assert {kind for kind, _ in blocks} <= {"sh", "python", "text"}
    assert any(kind != "text" for kind, _ in blocks)
    for kind, text in blocks:
        run(kind, text)
    if page == "from_python.md":
        assert "more runs" in capsys.readouterr().out


def test_the_strategy_of_its_page_can_be_previewed_as_it_says(run, monkeypatch, capsys):
    from strategies.__main__ import main

    blocks = BLOCK.findall((EXAMPLES / "own_strategy.md").read_text())
    scope = run(*blocks[0])
    monkeypatch.setitem(strategies.STRATEGIES, "late_half", scope["LateHalf"])
    preview, search = (line for kind, text in blocks if kind == "text" for line in text.strip().splitlines())
    monkeypatch.setattr(sys, "argv", shlex.split(preview)[2:])
    assert main() == 0
    assert "late_half" in capsys.readouterr().out
    assert search.startswith("python tune.py --strategies baseline,late_half")


@pytest.mark.search
def test_every_cell_of_the_notebook_runs(run):
    cells = json.loads((EXAMPLES / "search.ipynb").read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            scope = run("python", cell["source"])
    assert len(scope["result"].trials) == 6 + 2 * 2 + 2 * 2


def test_the_list_of_examples_has_all_of_them():
    named = re.findall(r"\]\(([\w.]+\.(?:md|ipynb))\)", (EXAMPLES / "README.md").read_text())
    assert sorted(named) == sorted([*PAGES, "search.ipynb"])
