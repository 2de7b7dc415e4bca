import datetime
import json
import os
import shlex
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from trainables.models.identity import identity
from tuning import pipeline
from tuning.cli import main, resolve_plan
from tuning.flags import options
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import preflight
from tuning.results import summary
from tuning.state import run_folder
from tuning.state.continuation import saved_plan
from tuning.state.record import Record

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ray_cluster.yaml").read_text()
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def on_premise() -> str:
    """Do what the file says: keep the name, uncomment the variant."""
    _, variant = TEXT.split("# --- on-premise variant\n")
    return "cluster_name: lora-rank-search\n" + "".join(
        line.removeprefix("# ") for line in variant.splitlines(keepends=True)
    )


def accepted(text: str) -> dict:
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


def test_the_cloud_cluster_fits_rays_schema_and_grows_by_gpu_workers():
    config = accepted(TEXT)
    workers = config["available_node_types"]["gpu_worker"]
    assert config["provider"]["type"] == "aws"
    assert (workers["min_workers"], workers["max_workers"]) == (1, config["max_workers"])
    assert config["head_node_type"] in config["available_node_types"]


def test_the_on_premise_variant_fits_rays_schema():
    assert accepted(on_premise())["provider"]["type"] == "local"


def test_the_schema_check_would_notice_an_unknown_key():
    with pytest.raises(Exception, match="gpu_wrokers"):
        accepted(TEXT + "\ngpu_wrokers: 3\n")


def test_the_images_have_the_ray_that_is_tested():
    images = yaml.safe_load(TEXT)["docker"]
    for image in (images["head_image"], images["worker_image"]):
        assert image.split(":")[1].startswith(f"{version('ray')}-py311")


def test_the_mount_and_the_setup_agree_on_the_folder():
    config = yaml.safe_load(TEXT)
    folder = next(folder for folder, source in config["file_mounts"].items() if source == ".")
    assert config["setup_commands"][-1].startswith(f"cd {folder} &&")


def test_workers_are_spot_and_the_head_is_on_demand():
    types = yaml.safe_load(TEXT)["available_node_types"]
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]


@pytest.mark.parametrize("text", [TEXT, on_premise()])
def test_every_node_wants_the_token_and_keeps_it_to_itself(text):
    config = yaml.safe_load(text)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"])
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    everywhere = config.get("docker", {}).get("run_options", [])
    if everywhere:  # containers have no other environment
        assert {"--env RAY_AUTH_MODE=token", "--env RAY_JOB_STOP_WAIT_TIME_S=60"} <= set(everywhere)
        assert any(option.startswith("--env MLFLOW_TRACKING_URI=http") for option in everywhere)
    else:
        (written,) = [command for command in config["setup_commands"] if "RAY_AUTH_MODE" in command]
        assert "RAY_AUTH_MODE=token MLFLOW_TRACKING_URI=http" in written
        assert " RAY_JOB_STOP_WAIT_TIME_S=60 " in written
        assert all(command.startswith(f". {written.rpartition('> ')[2]} && ") for command in starts)
    assert not any("0.0.0.0" in command for command in starts)


def test_trials_write_to_the_folder_that_is_mounted_on_every_node():
    config = yaml.safe_load(TEXT)
    assert "--volume /mnt/shared:/mnt/shared" in config["docker"]["run_options"]
    assert any(
        "mount -t nfs4" in command and command.endswith(" /mnt/shared") for command in config["initialization_commands"]
    )


def test_the_page_on_clusters_goes_from_ray_up_to_the_report_in_five_commands():
    block = PAGE.split("```")[1].replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in block.strip().splitlines() if not line.startswith("#")]
    assert len(commands) == 5
    up, submit, fetch = (next(c for c in commands if word in c) for word in ("up", "submit", "rsync-down"))
    assert up[:2] == ["ray", "up"]
    flags = submit[submit.index("tune.py") + 1 :]
    names = {flag: option.name for option in options() for flag in option.opts}
    plan = resolve_plan(None, {names[flag]: value for flag, value in zip(flags[::2], flags[1::2], strict=True)})
    assert plan.ray_address == "auto"
    assert f"{plan.run_dir}/report.html" in fetch


def test_mlflows_address_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert summary.tracking_uri(SearchPlan()) == "http://mlflow:5000"
    assert summary.artifact_uri(SearchPlan()) is None
    assert summary.tracking_uri(SearchPlan(mlflow_uri="http://other:5000")) == "http://other:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert summary.tracking_uri(SearchPlan(runs_dir="/runs")) == "sqlite:////runs/mlflow.db"


@pytest.mark.search
def test_a_folder_that_another_search_made_in_the_meantime_is_left_alone(tiny_gpt2, tiny_text, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "revision", lambda: None)  # it asks git
    plan = SearchPlan(
        model=str(tiny_gpt2), dataset=str(tiny_text), train_examples=16, validation_examples=8, test_examples=8,
        max_length=32, runs_dir=str(tmp_path), name="same",
    )  # fmt: skip
    facts = run_folder.facts_of(plan, preflight.check(plan), "id")
    run_folder.created(plan, facts)
    before = sorted(path.read_bytes() for path in plan.run_dir.iterdir())
    with pytest.raises(ValueError, match=r"--name same: .* cannot be made"):
        run_folder.created(plan, facts)
    assert sorted(path.read_bytes() for path in plan.run_dir.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_searches_that_nobody_has_named_get_names_of_their_own(simulated, small, tmp_path, monkeypatch):
    """Both are in one second; the second finds the name free, and taken when it makes its folder."""
    clock = SimpleNamespace(now=lambda: datetime.datetime(2026, 1, 2, 3))
    monkeypatch.setattr(pipeline, "datetime", SimpleNamespace(datetime=clock))
    lexists, flags = (
        os.path.lexists,
        [*small, "--num-samples", "1", "--strategies", "baseline", "--runs-dir", str(tmp_path)],
    )
    assert main(flags) == 0
    monkeypatch.setattr(os.path, "lexists", lambda path: lexists(path) and not str(path).endswith("03-00-00"))
    assert main(flags) == 0
    names = ["2026-01-02_03-00-00", "2026-01-02_03-00-00-2"]
    assert sorted(path.parent.name for path in tmp_path.glob("*/report.md")) == names
    assert [json.loads((tmp_path / name / "plan.json").read_text())["name"] for name in names] == names
    assert [saved_plan(Record(tmp_path / name)).name for name in names] == names
    assert not list(tmp_path.glob(".2026*"))


def test_examples_travel_with_the_workload_and_the_base_is_named_by_its_digest(tiny_gpt2, tiny_text, monkeypatch):
    monkeypatch.chdir(tiny_gpt2.parent)
    plan = SearchPlan(
        model=f"./{tiny_gpt2.name}", dataset=str(tiny_text), train_examples=16, validation_examples=8, test_examples=8,
        max_length=32,
    )  # fmt: skip
    workload = preflight.check(plan).workload
    assert workload.model == str(tiny_gpt2)
    assert workload.base == identity(str(tiny_gpt2))
    assert len(workload.splits.train) == 16
