import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.__main__ import RATIOS
from benchmarks.pairs import Ratio, interleaved

ROOT = Path(__file__).parents[2]


def ratio(*ratios, **choices):
    return Ratio("floor", "cpu", ratios, **{"target": 2.0, **choices})


def test_the_median_of_pairs_that_agree_is_the_result():
    agreeing = ratio(1.9, 2.1, 2.2)
    assert agreeing.median == 2.1
    assert agreeing.line() == "floor: 2.10 (1.90 to 2.20, 3 pairs; target >= 2)"


def test_pairs_that_vary_by_more_than_a_quarter_give_no_number():
    assert ratio(1.8, 2.0, 2.3).median == 2.0
    noisy = ratio(1.8, 2.0, 2.31)
    assert noisy.median is None
    assert noisy.line() == "floor: too noisy (1.80 to 2.31, 3 pairs; target >= 2)"
    assert noisy.row()["median"] is None


@pytest.mark.parametrize(("value", "at_most", "missed"), [(1.9, False, True), (2.0, False, False), (2.1, True, True)])
def test_a_missed_target_is_said(value, at_most, missed):
    assert ratio(value, at_most=at_most).line().endswith("MISSED") == missed


def test_peers_take_turns_so_that_drift_hits_both():
    order = []
    results = interleaved(lambda: order.append("A") or len(order), lambda: order.append("B") or len(order), 3)
    assert "".join(order) == "ABBAAB"
    assert results == [(1, 2), (4, 3), (5, 6)]


def test_the_command_writes_what_was_asked(tmp_path, monkeypatch, capsys):
    asked = []
    for name in RATIOS:
        monkeypatch.setitem(RATIOS, name, lambda pairs, device, name=name: asked.append(name) or ratio(*[1.0] * pairs))
    monkeypatch.setattr(command, "ray_for", lambda plan: contextlib.nullcontext())
    arguments = ["--only", "prefix", "--only", "floor", "--pairs", "3", "--json", str(tmp_path / "found.json")]
    command.main(arguments, standalone_mode=False)
    assert asked == ["prefix", "floor"]
    assert json.loads((tmp_path / "found.json").read_text()) == [ratio(1.0, 1.0, 1.0).row()] * 2
    assert capsys.readouterr().out.splitlines()[1:] == [ratio(1.0, 1.0, 1.0).line()] * 2


@pytest.mark.process
@pytest.mark.thorough
def test_the_command_measures_and_writes_what_was_asked(tmp_path):
    arguments = [sys.executable, "-m", "benchmarks", "--only", "floor", "--pairs", "1", "--json", "found.json"]
    subprocess.run(arguments, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert set(row) == {"name", "device", "median", "min", "max", "pairs", "target"}
    assert (row["name"], row["pairs"]) == ("floor", 1)
    assert 0.3 < row["median"] < 1.5


def test_every_promised_ratio_has_its_name():
    assert list(RATIOS) == [
        "sweep_vs_p0", "sweep_vs_p1", "steady_vs_p1", "fixed_cost_vs_p0", "floor", "memory", "prefix", "scaling",
    ]  # fmt: skip
