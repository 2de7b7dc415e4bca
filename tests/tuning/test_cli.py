import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.exceptions import RaySystemError, RayTaskError

from strategies import RankBudget
from tests import configuration
from tuning.cli import main, resolve_plan
from tuning.flags import STATUSES, extra_options, options
from tuning.lifecycle.stop import FULL
from tuning.plan.search_plan import SearchPlan

ROOT = Path(__file__).parents[2]


def test_the_page_on_configuration_has_every_flag_as_the_plan_has_it():
    _, written, _ = configuration.split(configuration.PAGE.read_text())
    assert written == configuration.flags(), "python -m tests.configuration writes it anew"
    table = re.findall(r"^\| `--([a-z0-9-]+)`", written, re.MULTILINE)
    others = {option.name for option in extra_options()}
    assert len(table) == len(set(table))
    assert {name.replace("-", "_") for name in table} - others == set(SearchPlan.model_fields)
    assert {option.name for option in options()} == set(SearchPlan.model_fields)


def test_the_page_on_configuration_has_every_exit_status():
    rows = re.findall(r"^\| (\d[\d, ]*) \| (.*?) \|$", configuration.PAGE.read_text(), re.MULTILINE)
    assert [status for status, _ in rows] == [*STATUSES]


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    config = tmp_path / "plan.yaml"
    config.write_text(yaml.safe_dump({"num_samples": 7, "seed": 3}))
    plan = resolve_plan(str(config), {"seed": 4, "strategies": ()})
    assert (plan.num_samples, plan.seed, plan.epochs) == (7, 4, 3.0)


def test_a_saved_plan_is_a_valid_plan():
    plan = SearchPlan(strategies=("baseline", "empirical"), budget_rank=4)
    assert SearchPlan(**json.loads(plan.model_dump_json())) == plan


def test_threads_follow_cpus():
    assert [SearchPlan(cpus_per_trial=n).workload(RankBudget(8)).threads for n in (0.5, 1, 2.9, 4)] == [1, 1, 2, 4]


def test_a_pack_and_its_share_of_a_gpu_must_agree(refused, tmp_path):
    line = refused("--pack-size", "4", "--gpus-per-trial", "0.5", "--runs-dir", tmp_path / "runs")
    assert "--pack-size 4" in line
    assert SearchPlan(isolation="packed", gpus_per_trial=0.25).trials_per_pack == 4
    assert SearchPlan(isolation="packed", pack_size=4).trial_resources == {"cpu": 0.25, "gpu": 0.0}
    assert SearchPlan(isolation="packed", pack_size=8, gpus_per_trial=1).trial_resources == {"cpu": 0.125, "gpu": 0.125}
    assert SearchPlan(isolation="process", gpus_per_trial=0.25).trial_resources == {"cpu": 1.0, "gpu": 0.25}
    for isolation in ("packed", "process"):
        line = refused("--gpus-per-trial", "2", "--isolation", isolation, "--runs-dir", tmp_path / "runs")
        assert "trains on one GPU; give at most 1" in line


def test_a_pack_on_a_whole_gpu_is_measured_unless_its_size_is_given():
    assert SearchPlan(gpus_per_trial=1).pack_size_is_open
    others = [
        {"pack_size": 4, "gpus_per_trial": 1},
        {"gpus_per_trial": 0.5},
        {},
        {"isolation": "process", "gpus_per_trial": 1},
    ]
    assert not any(SearchPlan(**plan).pack_size_is_open for plan in others)


@pytest.mark.search
def test_gpus_that_are_not_there_are_refused(shared_ray, small, tmp_path, monkeypatch, refused):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # a Ray that is not to be joined
    assert refused(*small, "--gpus-per-trial", "0.25", "--runs-dir", tmp_path / "runs") == (
        "Error: --gpus-per-trial 0.25: no node has more than 0 GPUs; lower it, or add a node that has them\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.process
@pytest.mark.thorough
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
        "Error: --gpus-per-trial 0.25: no node has more than 0 GPUs; lower it, or add a node that has them"
    ]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_plan_budget_allocations_and_cost_and_writes_nothing(
    tmp_path, capsys, monkeypatch, tiny_gpt2, tiny_text
):
    monkeypatch.chdir(tmp_path)
    arguments = f"--dry-run --model {tiny_gpt2} --dataset {tiny_text} --train-examples 16 --validation-examples 8"
    assert main([*arguments.split(), "--test-examples", "20", "--max-length", "32", "--num-samples", "6"]) == 0
    out = capsys.readouterr().out
    assert '"num_samples": 6' in out
    assert "baseline: 1,024 parameters, ranks 2 to 2" in out
    assert "empirical: decided after the evidence is measured" in out
    assert "6 trials and 45 confirmation runs x 6 steps" in out
    assert "learning rate: short trials of plain LoRA find what is searched around" in out
    named = [word for name in ("baseline", "eva", "adalora") for word in ("--strategies", name)]
    assert main([*arguments.split(), "--test-examples", "20", "--max-length", "32", *named]) == 0
    out = capsys.readouterr().out
    assert "eva: decided after the evidence is measured" in out
    assert "adalora: decided while training" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("flags", [["--resume", "first"], []])
def test_a_disk_that_is_full_before_the_search_has_begun_is_one_line_and_status_4(error, flags, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("tuning.pipeline.search", full)
    monkeypatch.setattr("tuning.resuming.resume", full)
    monkeypatch.setattr("tuning.cli._check_there", lambda *_: None)
    assert main([*flags, "--runs-dir", "there"]) == 4
    said = f"Error: there: {os.strerror(error)}; free some room, then use --resume NAME\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/a/.lock"), "/a/.lock: Read-only file system"),
        (RaySystemError("gone"), "Ray cannot go on (RaySystemError: System error: gone)"),
    ],
)
def test_a_disk_or_a_ray_that_fails_before_the_search_has_begun_is_one_line_and_status_5(
    error, said, monkeypatch, capsys
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("tuning.pipeline.search", fail)
    assert main(["--runs-dir", "there"]) == 5
    assert capsys.readouterr().err == f"Error: {said}. Stopped before any trial began\n"


def test_a_mistake_of_ours_is_not_blamed_on_ray(monkeypatch):
    def fail(*_, **__):
        raise RayTaskError("Host.measure", "Traceback", KeyError("ours"))

    monkeypatch.setattr("tuning.pipeline.search", fail)
    with pytest.raises(RayTaskError):
        main(["--runs-dir", "there"])
