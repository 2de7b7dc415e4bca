"""What stands for Ray in tests does what Ray does."""

import dataclasses

import pytest

from analysis.results.rows import read_rows
from tests.fakes import ray_tune
from tests.fakes.trial import geometry_of
from trainables.models import base_model
from tuning.cli import main

PLAN = (
    "--num-samples", "8", "--strategies", "baseline", "--strategies", "linear_decay", "--strategies", "empirical",
    "--max-concurrent-trials", "1", "--confirm-seeds", "2", "--seed", "3",
)  # fmt: skip
TIMED = ("training_time_seconds", "history")


def untimed(run_dir):
    rows = [dataclasses.asdict(row) for row in read_rows(run_dir / "rows.jsonl")]
    for row in rows:
        row["history"] = [{**report, "seconds": None} for report in row["history"]]
    return rows


def test_a_fake_trial_knows_the_sites_of_its_base(tiny_gpt2):
    shape, geometry = base_model.shape_of(str(tiny_gpt2)), geometry_of(str(tiny_gpt2))
    assert (geometry.sites, geometry.base_params) == (shape.sites, shape.params)


@pytest.mark.search
def test_a_search_without_ray_leaves_the_rows_of_one_on_ray(small, tmp_path, monkeypatch, fake_hosts):
    with monkeypatch.context() as patched:
        ray_tune.install(patched)
        ray_tune.draw_nothing(patched)
        assert main([*small, *PLAN, "--runs-dir", str(tmp_path), "--name", "alone"]) == 0
    assert main([*small, *PLAN, "--runs-dir", str(tmp_path), "--name", "on-ray"]) == 0
    assert untimed(tmp_path / "alone") == untimed(tmp_path / "on-ray")
    assert {row["status"] for row in untimed(tmp_path / "alone")} == {"finished", "stopped"}
