"""Searches that nobody has told a learning rate: short trials of plain LoRA find what they are searched around."""

import json

import pytest

from analysis.results.rows import read_rows
from analysis.results.run_info import RunInfo
from tests.fakes import ray_tune
from tuning.cli import main


@pytest.fixture
def rateless(small, tmp_path):
    """Flags of a small search without a learning rate, whose best, by the formula of what trains nothing, is .02."""
    at = small.index("--learning-rate")
    return [*small[:at], *small[at + 2 :], "--runs-dir", str(tmp_path)]


def test_a_search_is_around_what_suits_plain_lora_however_far_off_the_usual_rate_is(
    simulated, rateless, four, tmp_path, capsys
):
    assert main([*rateless, *four, "--num-samples", "12", "--name", "found"]) == 0
    out = capsys.readouterr().out
    plan = json.loads((tmp_path / "found" / "plan.json").read_text())
    assert plan["learning_rate"] == pytest.approx(0.02, rel=0.5), "the usual rate is a hundredth of it"
    assert f"learning rate: {plan['learning_rate']:g} suits plain LoRA best in 8 short trials of " in out
    info = RunInfo.of_run(tmp_path / "found", "")
    assert [row["learning_rate"] for row in info.bracket] == pytest.approx([2e-4 * 4.0**n for n in range(-3, 5)])
    assert all(row["eval_loss"] > 2 for row in info.bracket)
    rows = read_rows(tmp_path / "found" / "rows.jsonl")
    assert len(rows) == 12
    for row in rows:
        assert 0.9 * plan["learning_rate"] / 4 <= row.learning_rate <= 1.1 * plan["learning_rate"] * 4
    (first,) = (row for row in rows if row.trial_id == "t001")
    assert (first.strategy, first.learning_rate) == ("baseline", plan["learning_rate"])
    assert "suits plain LoRA best" in (tmp_path / "found" / "search.log").read_text()


def test_a_search_that_goes_on_asks_no_more_and_keeps_what_it_had_found(
    simulated, rateless, tmp_path, monkeypatch, capsys
):
    flags = [*rateless, "--strategies", "baseline,linear_decay", "--num-samples", "8", "--max-concurrent-trials", "1"]
    assert main([*flags, "--name", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        ray_tune.kill_at(patch, lambda harvest: len(harvest.record.rows) == 3)
        with pytest.raises(ray_tune.Killed):
            main([*flags, "--name", "cut"])
    bracket = RunInfo.of_run(tmp_path / "cut", "").bracket
    monkeypatch.setattr(ray_tune, "bracket_of", lambda *_: pytest.fail("it is known already"))
    assert main(["--resume", "cut", "--runs-dir", str(tmp_path)]) == 0
    whole, cut = (read_rows(tmp_path / name / "rows.jsonl") for name in ("whole", "cut"))
    assert [row.learning_rate for row in cut] == [row.learning_rate for row in whole]
    assert RunInfo.of_run(tmp_path / "cut", "").bracket == bracket
    assert bracket


def test_short_trials_have_the_workload_of_trials(simulated, rateless, tmp_path, monkeypatch):
    trained, bracket_of = [], ray_tune.bracket_of
    monkeypatch.setattr(
        ray_tune, "bracket_of", lambda workload, *rest: trained.append(workload) or bracket_of(workload, *rest)
    )
    flags = ["--strategies", "baseline,empirical", "--num-samples", "2", "--target-modules", "c_attn", "--name", "same"]
    assert main([*rateless, *flags]) == 0
    (workload,) = trained
    assert {site.name.rpartition(".")[2] for site in workload.coverage.sites} == {"c_attn"}
    assert workload.evidence, "it is that from before anything was measured"


def test_a_rate_that_is_given_is_taken_as_it_is(simulated, small, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_tune, "bracket_of", lambda *_: pytest.fail("a rate was given"))
    assert main([*small, "--num-samples", "4", "--name", "given", "--runs-dir", str(tmp_path)]) == 0
    assert not RunInfo.of_run(tmp_path / "given", "").bracket


def test_where_plain_lora_diverges_at_every_rate_the_usual_one_is_kept_and_that_is_said(
    simulated, rateless, tmp_path, monkeypatch, capsys
):
    from tests.fakes.trial import bracketed

    diverging = lambda workload, usual, seed: bracketed(usual, 8, lambda rates: [float("inf")] * len(rates))  # noqa: E731
    monkeypatch.setattr(ray_tune, "bracket_of", diverging)
    assert main([*rateless, "--num-samples", "4", "--name", "lost"]) == 0
    assert json.loads((tmp_path / "lost" / "plan.json").read_text())["learning_rate"] == 2e-4
    said = "learning rate: plain LoRA diverged in all of 7 short trials of 8 steps; searched around 0.0002 all the same"
    assert said in capsys.readouterr().out
    assert {row["eval_loss"] for row in RunInfo.of_run(tmp_path / "lost", "").bracket} == {None}
