"""A search keeps to the commit of a model that it was planned with."""

import json
import shutil

import huggingface_hub.constants
import pytest

from tests.fakes import trial
from trainables.models import hub
from tuning.cli import main

PINNED, BROKEN = "a" * 40, "b" * 40


@pytest.fixture
def cache(tiny_gpt2, tmp_path):
    """A cache of the hub's with a model of two commits, of which the branch `v1` names the one that is whole."""
    repo = tmp_path / "cache" / "models--org--tiny"
    shutil.copytree(tiny_gpt2, repo / "snapshots" / PINNED)
    shutil.copytree(tiny_gpt2, repo / "snapshots" / BROKEN)
    (repo / "snapshots" / BROKEN / "model.safetensors").unlink()
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(PINNED)
    (repo / "refs" / "main").write_text(BROKEN)
    return tmp_path / "cache"


def check_commit(cache, runs, run):
    """Search on the branch, and again once it names the other commit; ``run`` returns status and errors."""
    flags = ("--model", "org/tiny", "--num-samples", "2", "--strategies", "baseline", "--runs-dir", str(runs))
    status, errors = run(*flags, "--model-revision", "v1", "--name", "first")
    assert status == 0, errors
    plan = json.loads((runs / "first" / "plan.json").read_text())
    assert (plan["model"], plan["model_revision"], plan["dataset_revision"]) == ("org/tiny", PINNED, None)

    (cache / "models--org--tiny" / "refs" / "v1").write_text(BROKEN)
    again = ("--config", str(runs / "first" / "plan.json"), "--model", "org/tiny", "--dry-run", "--name", "x")
    status, errors = run(*again)
    assert status == 0, errors
    status, errors = run(*flags, "--name", "second")
    assert status == 2
    assert "--model org/tiny" in errors
    assert "no weights" in errors


@pytest.mark.search
def test_a_search_uses_the_commit_that_its_plan_records(simulated, small, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    geometry_of = trial.geometry_of

    def of_hub(model):
        return geometry_of(str(hub.folder("model", model, ["config.json"])))

    monkeypatch.setattr(trial, "geometry_of", of_hub)

    def run(*flags):
        return main([*small, *flags]), capsys.readouterr().err

    check_commit(cache, tmp_path / "runs", run)


@pytest.mark.process
@pytest.mark.thorough
def test_every_process_of_a_search_uses_the_commit_that_its_plan_records(tune, cache, tmp_path):
    def run(*flags):
        done = tune(*flags, HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
        return done.returncode, done.stderr

    check_commit(cache, tmp_path / "runs", run)
    adapter = json.loads((tmp_path / "runs" / "first" / "best_adapter" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/tiny", PINNED)
