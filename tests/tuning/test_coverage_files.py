"""What can be adapted is looked at once and kept; a dry run says it, and a choice among the matrices is heeded."""

import json
import re

import pytest

from analysis.results.rows import read_rows
from tuning.cli import main
from tuning.preflight import measuring
from tuning.preflight.measuring import coverage_at

MOST = ("--strategies", "baseline", "--num-samples", "1", "--confirm-seeds", "0")


@pytest.mark.search
def test_what_was_chosen_is_trained_kept_and_said(simulated, small, tmp_path, capsys):
    chosen = ["--target-modules", "c_attn", "--target-modules", "c_fc", "--layers", "1"]
    assert main([*small, *MOST, *chosen, "--runs-dir", str(tmp_path), "--name", "some"]) == 0
    (kept,) = (tmp_path / ".evidence").glob("*.coverage.json")
    coverage = coverage_at(kept)
    names = ["transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_fc"]
    assert [site.name for site in coverage.sites] == names
    facts = json.loads((tmp_path / "some" / "facts.json").read_text())
    assert facts["coverage"] == str(coverage)
    assert f"\n{coverage}\n" in capsys.readouterr().out.partition("\nVerdict")[0]
    assert facts["coverage"].endswith("left out: 6 matrices (not chosen)")
    report = (tmp_path / "some" / "report.md").read_text()
    assert f"- **Matrices:** {coverage}" in report
    assert len(read_rows(tmp_path / "some" / "rows.jsonl")) == 1
    kept.write_bytes(kept.read_bytes().replace(b'"depth": 1', b'"depth": 0', 1))
    assert coverage_at(kept) is None


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        (["--target-modules", "q_proj"], "--target-modules q_proj: no such matrix can be adapted; there are c_attn"),
        (["--layers", "2-"], "--layers 2-"),
        (["--exclude-modules", "("], "--exclude-modules ("),
    ],
)
def test_a_choice_that_means_nothing_is_one_line(flags, culprit, small, tmp_path, capsys):
    assert main([*small, *flags, "--runs-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert culprit in line
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_can_be_adapted_and_leaves_nothing(small, tmp_path, capsys):
    assert main([*small, "--dry-run", "--runs-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "adapted: 8 of 8 matrices, 100% of their parameters" in out
    assert "not looked at" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_that_it_has_not_looked_at_a_base_that_does_not_fit(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "free_bytes", lambda: 0)
    assert main([*small, "--dry-run", "--runs-dir", str(tmp_path)]) == 0
    coverage, said = re.findall("^(?:adapted|not looked at): .*", capsys.readouterr().out, re.MULTILINE)
    assert coverage == "adapted: 8 of 8 matrices, 100% of their parameters"
    assert said.startswith("not looked at: the base does not fit")
