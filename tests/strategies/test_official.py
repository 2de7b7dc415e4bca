import json
import subprocess
import sys

import pytest

from strategies.__main__ import main
from strategies.geometry import GEOMETRIES, parameter_efficiency
from strategies.official import OFFICIAL

SEED = {
    "baseline_rank8_official": (3_145_728, 0.008788),
    "baseline_rank16_official": (6_291_456, 0.017422),
    "adaptive_linear_decay_official": (6_291_456, 0.017422),
    "adaptive_empirical_official": (3_538_944, 0.009875),
    "adaptive_attention_heavy_official": (5_111_808, 0.014202),
}


@pytest.mark.parametrize("experiment", OFFICIAL, ids=lambda item: item.name)
def test_each_official_experiment_costs_on_gpt2_medium_what_the_seed_report_says(experiment):
    medium = GEOMETRIES["gpt2-medium"]
    allocation = experiment.allocation(medium.sites)
    params, efficiency = SEED[experiment.name]
    assert allocation.params == params
    assert round(parameter_efficiency(allocation.params, medium.base_params), 6) == efficiency


@pytest.mark.parametrize("geometry", ["gpt2-medium", "bundled"])
def test_exactly_the_adaptive_experiments_are_not_uniform(geometry):
    uniform = {
        item.name: len(set(item.allocation(GEOMETRIES[geometry].sites).ranks.values())) == 1 for item in OFFICIAL
    }
    assert uniform == {name: name.startswith("baseline") for name in SEED}


def test_the_size_of_gpt2_medium_is_the_published_one():
    assert GEOMETRIES["gpt2-medium"].base_params == 354_823_168


@pytest.mark.process
def test_the_preview_prints_the_official_experiments_as_json():
    command = [sys.executable, "-m", "strategies", "--official", "--geometry", "gpt2-medium", "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert {row["experiment_name"]: row["trainable_parameters"] for row in rows} == {k: v[0] for k, v in SEED.items()}
    assert all(len(row["ranks"]) == 96 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--strategy", "nope"], "nope"),
        (["--geometry", "nope"], "nope"),
        (["--budget", "3"], "3"),
        (["--budget", "9000", "--budget-rank", "2"], "--budget-rank"),
        (["--set", "slop=1"], "slop"),
        (["--set", "slope=steep"], "steep"),
        (["--strategy", "empirical"], "empirical"),
        (["--strategy", "eva"], "after the evidence is measured"),
        (["--strategy", "adalora"], "while training"),
    ],
)
def test_a_wrong_preview_is_one_line_and_status_2(arguments, culprit, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["strategies", *arguments])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert culprit in line
