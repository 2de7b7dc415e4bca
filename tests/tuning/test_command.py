"""The command and its subcommands: what help shows, what they call, and what is refused before anything is imported."""

import importlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from strategies import STRATEGIES
from tuning import command
from tuning.cli import main, resolve_plan
from tuning.flags import GROUPS, STATUSES, options
from tuning.plan.search_plan import SearchPlan
from tuning.state import continuation, facts
from tuning.state.record import EVENTS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def told(capsys):
    """A function that runs the command and returns its exit status and what it printed on standard output."""

    def run(*arguments):
        return main(arguments, "lora-rank-search"), capsys.readouterr().out

    return run


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_begins_with_examples_and_has_every_flag_and_choice_in_its_group(told, flag):
    status, text = told(flag)
    assert status == 0
    assert text.index("lora-rank-search --num-samples 20") < text.index("Model:")
    headings = [text.index(f"\n{heading}:\n") for heading in [*GROUPS, "Other commands", "Exit status"]]
    assert headings == sorted(headings)
    for option in options():
        assert re.search(rf"^  {option.opts[0]}\b", text, re.MULTILINE), option.opts
    unwrapped = " ".join(text.split())
    for word in (*STRATEGIES, "constant|alpha/r|alpha/sqrt(r)|search", "asha|fifo", "loss|loss,params", *STATUSES):
        assert word in unwrapped
    for name, item in command.SUBCOMMANDS.items():
        assert f"lora-rank-search {name}" in unwrapped
        assert item.summary in unwrapped


def test_the_version_is_that_of_the_project(told):
    assert told("--version") == (0, f"lora-rank-search {importlib.metadata.version('lora-rank-search')}\n")


def test_a_folder_that_is_not_installed_has_the_version_of_its_project_file(monkeypatch):
    find = importlib.metadata.version

    def not_installed(name):
        if name == facts.PROJECT:
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    installed = facts.versions()
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert facts.versions() == installed


@pytest.mark.parametrize("name", command.SUBCOMMANDS)
def test_every_subcommand_is_there(name):
    module, _, function = command.SUBCOMMANDS[name].function.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.fixture
def called(monkeypatch):
    """What the subcommands are called with, none of which does anything."""
    calls = []
    for name, item in command.SUBCOMMANDS.items():
        module, _, function = item.function.partition(":")

        def note(arguments, program, name=name):
            calls.append((name, [*arguments], program))
            return len(calls)

        monkeypatch.setattr(importlib.import_module(module), function, note)
    for what in ("begin_search", "end_without_collecting"):
        monkeypatch.setattr(command.process, what, lambda: None)
    monkeypatch.setattr(command.process, "_program", "lora-rank-search")
    return calls


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ([], ("search", [], "lora-rank-search")),
        (["--seed", "1"], ("search", ["--seed", "1"], "lora-rank-search")),
        (["search", "--seed", "1"], ("search", ["--seed", "1"], "lora-rank-search")),
        (["report", "runs/a"], ("report", ["runs/a"], "lora-rank-search report")),
        (["export", "runs/a"], ("export", ["runs/a"], "lora-rank-search export")),
        (["replay", "runs/a"], ("replay", ["runs/a"], "lora-rank-search replay")),
    ],
)
def test_the_first_word_chooses_and_without_one_it_is_a_search(called, words, call):
    assert command.run(words) == 1
    assert called == [call]


@pytest.mark.parametrize("said", [("baseline,eva", "adalora"), ["baseline", "eva,adalora"], "baseline,eva,adalora"])
def test_strategies_may_stand_between_commas_in_a_flag_a_file_and_a_keyword(said):
    assert resolve_plan(None, {"strategies": said}).strategies == ("baseline", "eva", "adalora")
    assert SearchPlan(strategies=said).strategies == ("baseline", "eva", "adalora")


def test_what_is_no_list_of_strategies_is_one_line():
    with pytest.raises(click.ClickException, match="strategies"):
        resolve_plan(None, {"strategies": False})


def test_the_flags_of_a_plan_give_the_plan_again():
    plan = SearchPlan(strategies=("baseline", "eva"), official=False, learning_rate=0.5, dataset="it's.jsonl")
    assert shlex.split(plan.flags) == [
        "--dataset", "it's.jsonl", "--strategies", "baseline", "--strategies", "eva", "--learning-rate", "0.5",
    ]  # fmt: skip


def test_latest_is_the_search_that_was_last_worked_on_unless_one_is_called_so(tmp_path):
    for age, name in ((2, "b"), (1, "a"), (3, "c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / EVENTS).write_text("")
        moment = time.time() - age
        os.utime(tmp_path / name / EVENTS, (moment, moment))
    assert continuation.folder_of("latest", str(tmp_path)).name == "a"
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / EVENTS).write_text("")
    os.utime(tmp_path / "latest" / EVENTS, (0, 0))
    assert continuation.folder_of("latest", str(tmp_path)).name == "latest"


def test_without_any_search_there_is_no_latest(tmp_path, refused):
    assert "--resume latest: no search of that name" in refused("--resume", "latest", "--runs-dir", tmp_path)


REFUSED = """
import sys, time
began = time.process_time()
from tuning.cli import main
assert main(sys.argv[1:]) == 2
assert not {"torch", "ray", "transformers", "huggingface_hub"} & {*sys.modules}
print(time.process_time() - began)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--model", "/none/of/it"], "--model /none/of/it: no such directory"),
        (["--dataset", "none.jsonl"], "--dataset none.jsonl: no such file or hub id"),
        (["--dataset", "texts/*.jsonl"], "--dataset texts/*.jsonl: no such file or hub id"),
    ],
)
def test_a_path_that_is_not_there_is_refused_before_anything_large_is_imported(flags, why, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *flags], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert why in done.stderr
    assert float(done.stdout) < 2
