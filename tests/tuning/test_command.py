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

from analysis.stats.assessment import assess
from strategies import STRATEGIES
from trainables.models import hub
from tuning import command
from tuning.cli import main, resolve_plan
from tuning.flags import GROUPS, STATUSES, options
from tuning.lifecycle import process
from tuning.plan.search_plan import SearchPlan
from tuning.results import summary
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


@pytest.fixture
def refused_early(monkeypatch, tmp_path, capsys):
    """A function that returns what the command says of wrong flags before it imports what takes long."""

    def refuse(*_):
        raise AssertionError("libraries would be imported now")

    monkeypatch.setattr("tuning.callbacks.terminal.Terminal", refuse)
    monkeypatch.chdir(tmp_path)
    for name in ("models", "data"):
        (tmp_path / name).mkdir()
    for name in ("file", "own.txt"):
        (tmp_path / name).touch()

    def run(*arguments):
        assert main(arguments, "lora-rank-search") == 2
        return capsys.readouterr().err

    return run


OWN = ("--dataset", "own.txt")
BRANCH = "correct the path, or if a hub id is meant, add its branch: "


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--model", "models/mine"],
            f"--model models/mine: the folder models here has no mine; {BRANCH}models/mine@main",
        ),
        (["--dataset", "data/x"], f"--dataset data/x: the folder data here has no x; {BRANCH}data/x@main"),
        ([*OWN, "--test-dataset", "data/x"], "--test-dataset data/x: the folder data here has no x"),
        (["--model", "gone/model"], "not to be had from the hub (HF_HUB_OFFLINE is set)"),
        ([*OWN, "--chat-template", "none.jinja"], "--chat-template none.jinja: no such file"),
        (["--runs-dir", "file"], "file is not a folder"),
        (["--resume", "typo"], "--resume typo: no search of that name"),
        (["--resume", "x", "--name", "y"], "--name y: a search that goes on keeps its name, x; leave it out"),
    ],
)
def test_what_is_not_there_is_refused_before_libraries_are_imported(refused_early, arguments, line):
    assert line in refused_early(*arguments)


@pytest.mark.parametrize(
    ("name", "revision"), [("models/mine@main", None), ("models/mine", "main"), ("other/mine", None)]
)
def test_a_hub_id_may_begin_as_a_folder_is_called_if_it_has_a_branch(name, revision, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.check_at_once("model", name, revision)


def test_a_hub_id_that_was_fetched_before_is_right(tmp_path, monkeypatch):
    (tmp_path / "models--models--mine" / "snapshots").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub.check_at_once("model", "models/mine", None)


def test_commands_that_a_search_suggests_are_those_that_are_installed(monkeypatch):
    monkeypatch.setattr(process, "_program", "lora-rank-search")
    assert process.subcommand("replay", "tuning.tracking replay") == "lora-rank-search replay"
    monkeypatch.setattr(process, "_program", "python tune.py")
    assert process.subcommand("replay", "tuning.tracking replay") == "python -m tuning.tracking replay"


@pytest.mark.parametrize(("is_there", "line"), [(None, "pip install optuna-dashboard && optuna-"), (1, " optuna-")])
def test_a_command_of_an_extra_is_named_with_how_to_install_it(is_there, line, tmp_path, monkeypatch):
    monkeypatch.setattr("tuning.results.summary.importlib.util.find_spec", lambda name: is_there)
    lines = summary.lines(SearchPlan(name="first", runs_dir=tmp_path), assess([], "0.25doublings", ()), "", "", None)
    assert any(text.startswith(f"Optuna          {' ' * (is_there is None)}{line}dashboard ") for text in lines)
