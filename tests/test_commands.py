"""The other commands are as strict as the search: wrong usage is one line, status 2, nothing written."""

import json
import pickle
import sys

import pytest

ROW = {"trial_id": "a", "experiment_name": "a", "strategy": "baseline", "status": "finished"}


@pytest.fixture
def folder(tmp_path):
    """Files that are wrong, and a good one of rows."""
    (tmp_path / "good.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "folder.md").mkdir()
    for name, plan in (("broken", "{"), ("list", "[]"), ("empty", "{}"), ("pickled", '{"model": "bundled"}')):
        adapter = tmp_path / name / "best_adapter"
        adapter.mkdir(parents=True)
        (tmp_path / name / "plan.json").write_text(plan)
        (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["c_attn"]}))
        (adapter / "adapter_model.safetensors").write_bytes(b"cut off")
    (tmp_path / "pickled" / "best_adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "pickled" / "best_adapter" / "adapter_model.bin").write_bytes(pickle.dumps({}))
    (tmp_path / "list" / "mlflow-outbox.jsonl").write_text("{}\n")
    (tmp_path / "list" / "mlflow-state.json").write_text("{")
    return tmp_path


def analysis():
    from analysis.__main__ import main

    return main


def audit():
    from analysis.audit.__main__ import main

    return main


def strategies():
    from strategies.__main__ import main

    return main


def export():
    from trainables.export import main

    return main


def tracking():
    from tuning.tracking.__main__ import command

    return command


ROWS = ["--rows", "{folder}/good.jsonl"]
OUT = ["--output", "{folder}/new.md"]
EXPORTED = ["--output", "{folder}/new"]
CASES = [
    (analysis, [], "RUN_DIR or --rows"),
    (analysis, ROWS, "--output"),
    (analysis, [*ROWS, "--output", "{folder}/x.html"], ".md"),
    (analysis, [*ROWS, "--output", "{folder}/none/x.md"], "folder does not exist"),
    (analysis, [*ROWS, "--output", "{folder}/folder.md"], "a folder"),
    (analysis, [*ROWS, *OUT, "--epochs", "nan"], "--epochs nan"),
    (analysis, [*ROWS, *OUT, "--dataset-size", "-1"], "--dataset-size"),
    (analysis, ["--rows", "{folder}/broken.jsonl", *OUT], "broken.jsonl, line 1"),
    (analysis, ["{folder}/none"], "none/plan.json"),
    (analysis, ["{folder}/broken"], "broken/plan.json"),
    (analysis, ["{folder}/list"], "list/plan.json"),
    (analysis, ["{folder}/empty"], "empty/rows.jsonl"),
    (audit, [], "FOLDER"),
    (audit, ["{folder}/none"], "no adapter_config.json"),
    (audit, ["{folder}/broken/best_adapter"], "cut off"),
    (audit, ["{folder}/pickled/best_adapter"], "pickle"),
    (audit, ["{folder}/broken/best_adapter", "--plan", "{folder}/none"], "--plan"),
    (audit, ["{folder}/broken/best_adapter", "--server", "tgi"], "tgi"),
    (strategies, ["stray"], "stray"),
    (strategies, ["--strategy", "nope"], "known: baseline"),
    (strategies, ["--strategy", "empirical"], "measured"),
    (strategies, ["--set", "x=1"], "--set x=1"),
    (strategies, ["--strategy", "linear_decay", "--set", "slope=nan"], "slope=nan: the value must be finite"),
    (strategies, ["--geometry", "nope"], "known: bundled"),
    (strategies, ["--budget", "0"], "--budget"),
    (strategies, ["--budget-rank", "0"], "--budget-rank"),
    (strategies, ["--budget", "9000", "--budget-rank", "1"], "give one"),
    (strategies, ["--model", "{folder}/none"], "none: no such directory"),
    (export, ["{folder}/list"], "--output"),
    (export, ["{folder}/none", *EXPORTED], "none: no best_adapter"),
    (export, ["{folder}/broken", "--output", "{folder}"], "exists"),
    (export, ["{folder}/broken", *EXPORTED], "broken/plan.json: no plan"),
    (export, ["{folder}/list", *EXPORTED], "list/plan.json: no plan"),
    (export, ["{folder}/empty", *EXPORTED], "empty/plan.json: no plan"),
    (export, ["{folder}/pickled", *EXPORTED], "no adapter_model.safetensors"),
    (export, ["{folder}/pickled", *EXPORTED, "--form", "merged"], "no adapter_model.safetensors"),
    (export, ["{folder}/list", *EXPORTED, "--form", "tar"], "tar"),
    (tracking, [], "replay"),
    (tracking, ["nope"], "nope"),
    (tracking, ["replay"], "RUN_DIR"),
    (tracking, ["replay", "{folder}/none"], "none"),
    (tracking, ["replay", "{folder}/empty"], "no mlflow-outbox.jsonl"),
]


@pytest.mark.parametrize(("command", "arguments", "culprit"), CASES)
def test_wrong_usage_of_any_command_is_one_line_and_writes_nothing(
    command, arguments, culprit, folder, monkeypatch, capsys
):
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["command", *(argument.format(folder=folder) for argument in arguments)])
    assert command()() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert culprit in captured.err
    assert sorted(folder.rglob("*")) == before
