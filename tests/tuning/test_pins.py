import json
import shutil

import pytest

PINNED, BROKEN = "a" * 40, "b" * 40


@pytest.mark.slow
def test_every_process_of_a_search_uses_the_commit_that_its_plan_records(tune, tiny_gpt2, tmp_path):
    repo, runs = tmp_path / "cache" / "models--org--tiny", tmp_path / "runs"
    shutil.copytree(tiny_gpt2, repo / "snapshots" / PINNED)
    shutil.copytree(tiny_gpt2, repo / "snapshots" / BROKEN)
    (repo / "snapshots" / BROKEN / "model.safetensors").unlink()
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(PINNED)
    (repo / "refs" / "main").write_text(BROKEN)
    offline = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    flags = ("--model", "org/tiny", "--num-samples", 2, "--strategies", "baseline", "--runs-dir", runs)
    done = tune(*flags, "--model-revision", "v1", "--name", "first", **offline)
    assert done.returncode == 0, done.stderr
    plan = json.loads((runs / "first" / "plan.json").read_text())
    assert (plan["model"], plan["model_revision"], plan["dataset_revision"]) == ("org/tiny", PINNED, None)
    adapter = json.loads((runs / "first" / "best_adapter" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/tiny", PINNED)

    (repo / "refs" / "v1").write_text(BROKEN)
    again = tune("--config", runs / "first" / "plan.json", "--model", "org/tiny", "--dry-run", "--name", "x", **offline)
    assert again.returncode == 0, again.stderr
    refused = tune(*flags, "--name", "second", **offline)
    assert refused.returncode == 2
    assert "--model org/tiny" in refused.stderr
    assert "no weights" in refused.stderr
