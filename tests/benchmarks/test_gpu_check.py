"""The check of a pack over bases of a GPU's precisions, at a small size on a CPU."""

import re

import pytest
from click.testing import CliRunner

from benchmarks import gpu_check
from benchmarks.gpu_check import Difference


@pytest.mark.search
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pack_is_what_plain_peft_is_over_each_precision(monkeypatch):
    result = CliRunner().invoke(gpu_check.main, ["--small", "--cpu"], catch_exceptions=False)
    lines = result.output.splitlines()
    assert [line.split(":")[0] for line in lines] == ["llama, float32", "llama, nf4 and float32"]
    for line in lines:
        assert "14 of 14 matrices sound" in line
        assert float(re.search(r"apart by (\S+) nats", line)[1]) < 1e-5
        assert re.search(r"memory \d+\.\d\d GB, predicted \d+\.\d\d$", line)


def test_what_is_too_far_apart_is_said():
    assert str(Difference(0.003, 0.002)) == "0.003 nats (at most 0.002: MISSED)"
    assert str(Difference(0.001, 0.002)) == "0.001 nats (at most 0.002)"
