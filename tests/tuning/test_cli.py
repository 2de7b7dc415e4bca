import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from strategies import RankBudget
from tuning.cli import main, options, resolve_plan
from tuning.plan import SearchPlan

ROOT = Path(__file__).parents[2]


def refused(capsys, *arguments):
    """Run the command and return its one line on standard error."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return captured.err


def test_flags_fields_and_readme_name_the_same_choices():
    flags = {option.name for option in options()}
    table = re.findall(r"^\| `--([a-z0-9-]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(table) == len(set(table))
    assert flags == set(SearchPlan.model_fields) == {name.replace("-", "_") for name in table} - {"config", "dry_run"}


def test_the_readme_table_shows_every_default_and_description():
    readme = (ROOT / "README.md").read_text()
    for name, field in SearchPlan.model_fields.items():
        line = next(line for line in readme.splitlines() if line.startswith(f"| `--{name.replace('_', '-')}`"))
        default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if default is None else f"`{'off' if default is False else default}`"
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == [shown, field.description]


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    config = tmp_path / "plan.yaml"
    config.write_text(yaml.safe_dump({"num_samples": 7, "seed": 3}))
    plan = resolve_plan(str(config), {"seed": 4, "strategies": ()})
    assert (plan.num_samples, plan.seed, plan.epochs) == (7, 4, 3.0)


def test_a_saved_plan_is_a_valid_plan():
    plan = SearchPlan(strategies=("baseline", "empirical"), budget_rank=4)
    assert SearchPlan(**json.loads(plan.model_dump_json())) == plan


@pytest.mark.parametrize(
    ("arguments", "culprit", "right"),
    [
        (["--strategies", "lineer"], "lineer", "linear_decay"),
        (["--strategies", "baseline", "--strategies", "baseline"], "baseline, baseline", "once"),
        (["--scheduler", "pbt"], "pbt", "asha"),
        (["--num-samples", "0"], "--num-samples", "greater than or equal to 1"),
        (["--num-samples", "many"], "--num-samples", "integer"),
        (["--epochs", "-1"], "--epochs", "greater than 0"),
        (["--epochs", "nan"], "--epochs", "finite"),
        (["--learning-rate", "inf"], "--learning-rate", "finite"),
        (["--dropout", "1"], "--dropout", "less than 1"),
        (["--scaling", "r"], "--scaling", "constant"),
        (["--budget", "100", "--budget-rank", "2"], "--budget-rank", "one"),
        (["--budget", "100"], "--budget 100", "at least 256"),
        (["--name", "../x"], "../x", "folder name"),
        (["--name", ""], "--name", "folder name"),
        (["--name", "n" * 300], "--name", "at most 100"),
        (["--prompt-column", "q"], "--completion-column", "both"),
        (["--max-length", "9999"], "--max-length 9999", "256"),
        (["--no-such-flag"], "--no-such-flag", "option"),
        (["--model", "./missing"], "./missing", "Hugging Face model"),
        (["--model", "{folder}"], "{folder}", "config.json"),
        (["--dataset", "{folder}/missing.txt"], "missing.txt", "file"),
        (["--dataset", "{folder}/missing.csv"], "missing.csv", "no such file"),
        (["--dataset", "{folder}/empty.txt"], "empty.txt", "no text"),
        (["--dataset", "{folder}/latin.txt"], "latin.txt", "UTF-8"),
        (["--dataset", "{folder}/latin.jsonl"], "latin.jsonl", "UTF-8"),
        (["--dataset", "{folder}/table.csv"], "'text'", "it has a, b"),
        (["--dataset", "{folder}/table.csv", "--text-column", "a"], "table.csv", "--train-examples"),
        (["--dataset", "{folder}/broken.jsonl"], "broken.jsonl", "cannot be read"),
        (["--dataset", "{folder}"], "{folder}", "hub id"),
        (["--config", "{folder}/unknown.yaml"], "ranck", "known: model"),
        (["--config", "{folder}/list.yaml"], "list.yaml", "mapping"),
        (["--config", "{folder}/broken.yaml"], "broken.yaml", "cannot be read"),
        (["--config", "{folder}/missing.yaml"], "missing.yaml", "No such file"),
        (["--corpus-sha256", "0" * 64], "--corpus-sha256 0000", "the texts of pydoc have"),
        (["--name", "taken"], "--name taken", "another name"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_writes_nothing(arguments, culprit, right, tmp_path, capsys):
    folder, runs = tmp_path / "given", tmp_path / "runs"
    (runs / "taken").mkdir(parents=True)
    folder.mkdir()
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes("müde".encode("latin-1"))
    (folder / "latin.jsonl").write_bytes('{"text": "müde"}'.encode("latin-1"))
    (folder / "table.csv").write_text("a,b\nx,y\n")
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (folder / "unknown.yaml").write_text("ranck: 8\n")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "broken.yaml").write_text("a: [\n")
    line = refused(capsys, *(a.format(folder=folder) for a in arguments), "--runs-dir", runs)
    assert culprit.format(folder=folder) in line
    assert right in line
    assert [path.name for path in runs.iterdir()] == ["taken"]


def test_a_model_without_linear_layers_in_blocks_is_refused(tmp_path, capsys):
    from transformers import GPT2Config

    GPT2Config(n_layer=0, n_embd=16, n_head=2, vocab_size=50).save_pretrained(tmp_path)
    line = refused(capsys, "--model", tmp_path, "--runs-dir", tmp_path / "runs")
    assert str(tmp_path) in line
    assert "to adapt" in line


@pytest.fixture
def copied(tiny_gpt2, tmp_path):
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "copy"))


def test_weights_that_are_cut_off_or_absent_are_refused(copied, tmp_path, capsys):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(capsys, "--model", copied, "--runs-dir", tmp_path / "runs")
    weights.unlink()
    assert "no weights" in refused(capsys, "--model", copied, "--runs-dir", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_tokenizer_that_is_absent_or_larger_than_the_embedding_is_refused(copied, tiny_text, tmp_path, capsys):
    from trainables.base_model import BUNDLED

    flags = ("--model", copied, "--dataset", tiny_text, "--max-length", "32", "--runs-dir", tmp_path / "runs")
    small = ("--train-examples", "8", "--validation-examples", "4", "--test-examples", "4")
    shutil.copy(BUNDLED / "tokenizer.json", copied)
    assert "its embedding has 300" in refused(capsys, *flags, *small)
    (copied / "tokenizer.json").unlink()
    assert "tokenizer" in refused(capsys, *flags, *small)
    assert not (tmp_path / "runs").exists()


def test_threads_follow_cpus():
    assert [SearchPlan(cpus_per_trial=n).workload(RankBudget(8)).threads for n in (0.5, 1, 2.9, 4)] == [1, 1, 2, 4]


def test_a_pack_and_its_share_of_a_gpu_must_agree(capsys, tmp_path):
    line = refused(capsys, "--pack-size", "4", "--gpus-per-trial", "0.5", "--runs-dir", tmp_path / "runs")
    assert "--pack-size 4" in line
    assert SearchPlan(isolation="packed", gpus_per_trial=0.25).trials_per_pack == 4
    assert SearchPlan(isolation="packed", pack_size=4).trial_resources == {"cpu": 0.25, "gpu": 0.0}
    assert SearchPlan(isolation="packed", pack_size=8, gpus_per_trial=1).trial_resources == {"cpu": 0.125, "gpu": 0.125}
    assert SearchPlan(isolation="process", gpus_per_trial=0.25).trial_resources == {"cpu": 1.0, "gpu": 0.25}
    assert "at most 1" in refused(capsys, "--gpus-per-trial", "2", "--runs-dir", tmp_path / "runs")


def test_a_pack_on_a_whole_gpu_is_measured_unless_its_size_is_given():
    assert SearchPlan(gpus_per_trial=1).pack_size_is_open
    others = [
        {"pack_size": 4, "gpus_per_trial": 1},
        {"gpus_per_trial": 0.5},
        {},
        {"isolation": "process", "gpus_per_trial": 1},
    ]
    assert not any(SearchPlan(**plan).pack_size_is_open for plan in others)


@pytest.mark.slow
def test_weights_of_another_config_are_refused_before_a_folder_is_made(copied, tiny_text, tmp_path, capsys):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    flags = ("--model", copied, "--dataset", tiny_text, "--max-length", "32", "--runs-dir", tmp_path / "runs")
    code = main([*map(str, flags), "--train-examples", "8", "--validation-examples", "4", "--test-examples", "4"])
    assert code == 2
    assert "its weights lack transformer.h.2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_gpus_that_are_not_there_are_refused_by_a_real_process(tmp_path, tiny_gpt2, tiny_text):
    done = subprocess.run(
        [sys.executable, "tune.py", "--gpus-per-trial", "0.25", "--model", tiny_gpt2, "--dataset", tiny_text,
         "--train-examples", "8", "--validation-examples", "4", "--test-examples", "4", "--max-length", "32",
         "--runs-dir", tmp_path / "runs"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "", "HOME": str(tmp_path), "RAY_ADDRESS": "127.0.0.1:9"},  # a Ray that is not to be joined

    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Error: --gpus-per-trial 0.25: Ray has 0 GPUs; lower it, or add a node that has them"
    ]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_plan_budget_allocations_and_cost_and_writes_nothing(
    tmp_path, capsys, monkeypatch, tiny_gpt2, tiny_text
):
    monkeypatch.chdir(tmp_path)
    arguments = f"--dry-run --model {tiny_gpt2} --dataset {tiny_text} --train-examples 16 --validation-examples 8"
    assert main([*arguments.split(), "--test-examples", "8", "--max-length", "32", "--num-samples", "6"]) == 0
    out = capsys.readouterr().out
    assert '"num_samples": 6' in out
    assert "baseline: 1,024 parameters, ranks 2 to 2" in out
    assert "empirical: decided after the evidence is measured" in out
    assert "6 trials and 21 confirmation runs x 6 steps" in out
    named = [word for name in ("baseline", "eva", "adalora") for word in ("--strategies", name)]
    assert main([*arguments.split(), "--test-examples", "8", "--max-length", "32", *named]) == 0
    out = capsys.readouterr().out
    assert "eva: decided after the evidence is measured" in out
    assert "adalora: decided while training" in out
    assert list(tmp_path.iterdir()) == []
