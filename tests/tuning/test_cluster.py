from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ray_cluster.yaml").read_text()


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
    (folder,) = config["file_mounts"]
    assert config["setup_commands"][0].startswith(f"cd {folder} &&")
