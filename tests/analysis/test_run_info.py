"""What a report shows of a run, read from the files of any version, and written back."""

import json
import shutil
from pathlib import Path

import pytest

from analysis.results.run_info import RunInfo, planned
from tuning.state.facts import save_facts

CURVE = [{"fraction": 1.0, "params": 8, "test_loss": 4.5}]
OLD = Path(__file__).parents[1] / "data" / "run-2026-11-27"


@pytest.fixture
def run_dir(tmp_path):
    """A folder with a plan that says nothing."""
    (tmp_path / "plan.json").write_text("{}")
    return tmp_path


def test_the_facts_of_an_older_version_are_read_and_written_as_they_were(run_dir):
    shutil.copy(OLD / "plan.json", run_dir)
    info = RunInfo.of_run(OLD, "now")
    save_facts(info, run_dir)
    written, before = (json.loads((folder / "facts.json").read_text()) for folder in (run_dir, OLD))
    assert {name: written[name] for name in before} == before
    assert RunInfo.of_run(run_dir, "now") == info


def test_each_field_is_read_from_its_own_file_and_from_no_other(run_dir):
    plan = {"model": "of the plan", "train_examples": 7, "engine": "not of the plan", "generated": "nor this"}
    facts = {"model": "not of the facts", "engine": "of the facts", "search_id": "abc", "evidence": {"nor": {"a": 1.0}}}
    evidence = {"gradient": {"a": 1.0}, "model": {"b": 2.0}}
    for name, content in (("plan", plan), ("facts", facts), ("evidence", evidence)):
        (run_dir / f"{name}.json").write_text(json.dumps(content))
    assert RunInfo.of_run(run_dir, "now") == RunInfo(
        "now", model="of the plan", train_examples=7, engine="of the facts", search_id="abc", evidence=evidence
    )


def test_what_a_newer_version_says_besides_is_passed_over(run_dir):
    for name in ("plan.json", "facts.json"):
        (run_dir / name).write_text(json.dumps({"what_a_newer_version_says": [1]}))
    assert RunInfo.of_run(run_dir, "now") == RunInfo("now")


def test_what_a_plan_leaves_open_has_its_default():
    assert planned({"margin": None, "epochs": 2, "num_samples": 3}) == {"epochs": 2}


def test_only_what_was_found_out_is_saved_as_facts(run_dir):
    info = RunInfo("now", model="a", margin=0.5, evidence={"gradient": {"a": 1.0}}, shrink=CURVE)
    save_facts(info, run_dir)
    facts = json.loads((run_dir / "facts.json").read_text())
    assert list(facts)[:2] == ["search_id", "base_params"]
    assert facts["shrink"] == CURVE
    assert not {"generated", "evidence", "model", "margin"} & facts.keys()


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("plan.json", {"train_examples": "many"}, "train_examples: Input should be a valid integer"),
        ("plan.json", {"margin": [1]}, r"margin: .*, got '\[1\]'$"),
        ("facts.json", {"seconds": {"trials": "long"}}, "seconds: Input should be a valid number"),
        ("facts.json", {"importance": {"baseline": 3}}, "importance: Input should be a valid dictionary, got '3'$"),
        ("facts.json", {"versions": None}, "versions: .*, got 'None'$"),
        ("facts.json", {"search_id": 3}, "search_id: Input should be a valid string, got '3'$"),
        ("facts.json", {"bracket": [{}]}, r"bracket: .*each short trial must have learning_rate, .*, got '\[\{\}\]'$"),
        ("facts.json", {"shrink": [{}]}, r"shrink: .*each size must have fraction, params, test_loss, got '\[\{\}\]'$"),
        ("facts.json", {"data": {"words": 1}}, "data: .*words must be a list of texts, got "),
        ("facts.json", {"data": {"words": [1]}}, "data: .*words must be a list of texts, got "),
        ("facts.json", {"handed_out": {"../..": 1.5}}, r"handed_out: .*, got '\.\./\.\.'$"),
        ("facts.json", {"handed_out": {"best_adapter\n": 1.5}}, r"handed_out: .*, got 'best_adapter\\n'$"),
        ("evidence.json", {"fisher": {"0.q": "high"}}, "evidence: .*, got 'high'$"),
    ],
)
def test_a_value_of_a_wrong_kind_in_a_runs_files_is_named(file, content, problem, run_dir):
    (run_dir / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{run_dir / file}: {problem}") as raised:
        RunInfo.of_run(run_dir, "now")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("plan.json", r"no plan that can be read; RUN_DIR must be the folder of a run \(not a mapping\)$"),
        ("facts.json", r"cannot be read \(not a mapping\)$"),
        ("evidence.json", r"cannot be read \(not a mapping\)$"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(file, problem, run_dir):
    (run_dir / file).write_text("[]")
    with pytest.raises(ValueError, match=f"^{run_dir / file}: {problem}"):
        RunInfo.of_run(run_dir, "now")
