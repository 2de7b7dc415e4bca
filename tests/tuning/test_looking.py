"""A search that looks at its confirmation runs after 5, 10, 20 and 40 seeds, and stops once nothing is left to tell."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from analysis.report.verdict_file import content
from analysis.results.rows import ResultRow, read_rows, write_rows
from analysis.results.run_info import RunInfo
from analysis.results.trial_config import LOOKS
from analysis.stats.looks import error_at
from strategies import CONTROLS
from tests.fakes import ray_tune, trial
from tests.fakes.rows import assess
from tuning.callbacks.terminal import asked
from tuning.cli import main
from tuning.plan.search_plan import SearchPlan
from tuning.trials.confirmation import confirmations, controls, looks, regrouped, sizes

PLAN = SearchPlan(seed=7, confirm_seeds="auto", sizes=False, margin=0.001)
SEARCHED = [
    ResultRow(f"{name}0", f"{name}0", name, "finished", config={"strategy": name, "seed": 7}, final_eval_loss=4.0)
    for name in ("baseline", "eva", "linear_decay")
]
WIN, UNCLEAR, HOPELESS = (-0.05, -0.051), (-0.02, 0.012), (-0.004, 0.004)
"""Test loss minus plain LoRA's from odd seeds, and from even ones."""


def trained(plan, rows, **effects):
    """Return rows and those of all runs that are wanted now, of which each has the effect of its strategy."""
    there = {row.trial_id for row in rows}
    wanted = [config for config in [*confirmations(plan, rows), *sizes(plan, rows)] if config.trial_id not in there]
    return [*rows, *(_run(config, effects.get(config.strategy, (0.0, 0.0))) for config in wanted)]


def _run(config, effect):
    loss = 4 + config.seed / 100 + effect[config.seed % 2]
    return ResultRow(config.trial_id, config.name, config.strategy, "finished", phase=config.phase, seed=config.seed,
                     config=replace(config, trial_id="").to_ray(), final_eval_loss=loss, test_loss=loss,
                     trainable_parameters=1000)  # fmt: skip


def seeds_of(rows):
    return Counter(row.strategy for row in rows if row.phase == "confirm")


def test_a_strategy_that_is_told_of_gets_no_more_seeds_and_the_others_go_on():
    rows = trained(PLAN, SEARCHED, eva=WIN, linear_decay=UNCLEAR)
    assert seeds_of(rows) == {"baseline": 5, "eva": 5, "linear_decay": 5}
    assert looks(PLAN, rows).told == ("eva, after 5 seeds: win",)
    rows = trained(PLAN, rows, eva=WIN, linear_decay=UNCLEAR)
    assert seeds_of(rows) == {"baseline": 10, "eva": 5, "linear_decay": 10}
    assert {row.trial_config.looks for row in rows if row.phase == "confirm"} == {LOOKS}


def test_what_strategies_may_be_judged_against_has_as_many_seeds_as_any_of_them():
    """Plain LoRA on a set of matrices is told of after five seeds, and may be what the others are judged against."""
    searched = [*SEARCHED, replace(SEARCHED[0], trial_id="plain0", experiment_name="plain0", strategy="plain",
                                   config={"strategy": "plain", "seed": 7})]  # fmt: skip
    rows = searched
    for _ in range(2):
        rows = trained(PLAN, rows, eva=WIN, linear_decay=UNCLEAR, plain=WIN)
    assert seeds_of(rows)["plain"] == seeds_of(rows)["baseline"] == seeds_of(rows)["linear_decay"] == 10
    only = [row for row in searched if row.strategy in {"baseline", "plain"}]
    for _ in range(2):
        only = trained(PLAN, only, plain=(0.05, 0.051))
    assert seeds_of(only) == {"baseline": 5, "plain": 5}


def test_what_wins_late_is_tried_against_rivals_from_all_of_its_seeds():
    """They are told of after five seeds, and what wins after ten is tried against them seed by seed."""
    names = {"random": (0.05, 0.051), "layer_lr": (0.04, 0.041)}
    searched = SEARCHED[:2] + [
        replace(SEARCHED[0], trial_id=f"{name}0", experiment_name=f"{name}0", strategy=name,
                config={"strategy": name, "seed": 7}) for name in names
    ]  # fmt: skip
    rows = searched
    for _ in range(2):
        rows = trained(PLAN, rows, eva=(-0.02, -0.004), **names)
    assert seeds_of(rows) == {"baseline": 10, "eva": 10, "random": 5, "layer_lr": 5}
    rows = trained(PLAN, rows, eva=(-0.02, -0.004), **names)
    assert seeds_of(rows) == dict.fromkeys(("baseline", "eva", "random", "layer_lr"), 10)
    assert trained(PLAN, rows) == rows
    told = looks(PLAN, rows).told
    assert [sentence.split(",")[0] for sentence in told] == ["layer_lr", "random", "eva"]
    assert told[-1] == "eva, after 10 seeds: win"


def test_a_look_says_the_same_as_the_verdict_of_a_strategy_that_contains_plain_lora():
    layers = replace(SEARCHED[1], trial_id="layers", strategy="layer_lr", config={"strategy": "layer_lr", "seed": 7})
    rows = trained(PLAN, [SEARCHED[0], layers], layer_lr=(0.05, 0.051))
    assert looks(PLAN, rows).told == ("layer_lr, after 5 seeds: not found: the search was too short",)


def test_a_search_ends_where_all_are_told_of_and_no_later_than_its_last_look():
    rows = trained(PLAN, SEARCHED, eva=WIN, linear_decay=WIN)
    assert trained(PLAN, rows) == rows
    rows = SEARCHED
    for _ in range(6):
        rows = trained(PLAN, rows, eva=(-0.0109, 0.0041), linear_decay=WIN)
    assert seeds_of(rows)["baseline"] == seeds_of(rows)["eva"] <= 40


def test_a_strategy_without_hope_gets_no_more_seeds():
    rows = SEARCHED
    for _ in range(4):
        rows = trained(PLAN, rows, eva=HOPELESS, linear_decay=WIN)
    assert seeds_of(rows)["eva"] < 40
    assert looks(PLAN, rows).told[-1].endswith("cannot tell, and even 40 seeds would hardly tell")


def test_a_search_that_is_cut_off_within_a_look_wants_the_runs_that_it_would_have_wanted():
    rows = trained(PLAN, SEARCHED, eva=WIN, linear_decay=UNCLEAR)
    whole = trained(PLAN, rows, eva=WIN, linear_decay=UNCLEAR)
    wanted = confirmations(PLAN, rows)
    for cut in range(len(rows), len(whole)):
        assert confirmations(PLAN, whole[:cut]) == wanted
        assert looks(PLAN, whole[:cut]).told == ("eva, after 5 seeds: win",)


def test_files_alone_give_the_same_verdict(tmp_path):
    rows = trained(PLAN, SEARCHED, eva=WIN, linear_decay=UNCLEAR)
    rows = trained(PLAN, rows, eva=WIN, linear_decay=UNCLEAR)
    for name in ("rows.jsonl", "rows.csv"):
        write_rows(rows, tmp_path / name)
        verdicts = assess(read_rows(tmp_path / name), 0.001).verdicts
        assert verdicts == assess(rows, 0.001).verdicts
        assert [round(item.pairs.level, 5) for item in verdicts] == [0.99514, 0.99593]


def test_a_file_for_programs_says_what_a_strategy_lacks():
    rows = SEARCHED
    for _ in range(4):
        rows = trained(PLAN, rows, eva=HOPELESS, linear_decay=WIN)
    said = {item["strategy"]: item for item in content(assess(rows, 0.001), RunInfo("now"))["strategies"]}
    assert (said["eva"]["lacks"], said["linear_decay"]["lacks"]) == ("seeds", None)
    assert said["linear_decay"]["level"] == pytest.approx(1 - error_at(5, LOOKS) / 2)


def test_controls_have_the_seeds_of_what_they_are_controls_of():
    rows = trained(PLAN, SEARCHED, eva=WIN, linear_decay=(-0.02, -0.004))
    rows = trained(PLAN, rows, eva=WIN, linear_decay=(-0.02, -0.004))
    counts = Counter((config.control_of, config.strategy) for config in controls(PLAN, rows))
    eva, slope = ({(of, name): count for name in CONTROLS} for of, count in (("eva", 5), ("linear_decay", 10)))
    assert counts == {**eva, **slope}


def test_the_first_look_waits_for_other_sizes_of_which_there_are_no_more_later():
    plan = PLAN.model_copy(update={"sizes": True})
    rows = trained(plan, SEARCHED, eva=UNCLEAR, linear_decay=UNCLEAR)
    assert Counter(row.phase for row in rows)["sizes"] == 10
    without_one = [row for row in rows if row.trial_id != "baseline_baseline0-half_seed12"]
    assert confirmations(plan, without_one) == confirmations(plan, SEARCHED)
    assert len(confirmations(plan, rows)) == 2 * len(confirmations(plan, SEARCHED))
    assert sizes(plan, rows) == sizes(plan, SEARCHED)


def test_what_a_longer_search_finds_best_is_looked_at_from_the_first_look_on():
    rows = trained(PLAN, SEARCHED, eva=WIN, linear_decay=UNCLEAR)
    rows = trained(PLAN, rows, eva=WIN, linear_decay=UNCLEAR)
    longer = [*rows, replace(SEARCHED[1], trial_id="eva1", final_eval_loss=3.9)]
    wanted = confirmations(PLAN, longer)
    assert Counter(config.strategy for config in wanted) == {"baseline": 5, "eva": 5, "linear_decay": 5}
    changed = {row.trial_id: row for row in regrouped(rows, wanted)}
    assert Counter(row.strategy for row in changed.values()) == {"baseline": 5, "eva": 5, "linear_decay": 5}
    rows = trained(PLAN, [changed.get(row.trial_id, row) for row in longer], eva=UNCLEAR)
    again = regrouped(rows, confirmations(PLAN, rows))
    assert {row.phase for row in again} == {"confirm"}, "the second look takes up what it had"


def test_a_plan_knows_its_looks_and_says_them():
    assert (PLAN.looks, PLAN.first_seeds, PLAN.likely_seeds, PLAN.most_seeds) == (LOOKS, 5, 10, 40)
    fixed = SearchPlan(confirm_seeds=7)
    assert (fixed.looks, fixed.first_seeds, fixed.likely_seeds, fixed.most_seeds) == ((), 7, 7, 7)
    assert "5 to 40 fresh seeds for the verdict" in asked(PLAN)
    assert SearchPlan(confirm_seeds="5").confirm_seeds == 5
    assert "--confirm-seeds auto" in PLAN.flags
    for bad in ("often", "3.5", 1001, -1):
        with pytest.raises(ValueError, match="--confirm-seeds"):
            SearchPlan(confirm_seeds=bad)
    with pytest.raises(ValueError, match="--official trains five given experiments"):
        SearchPlan(confirm_seeds="auto", official=True)


AUTO = ("--num-samples", "4", "--confirm-seeds", "auto", "--no-sizes", "--max-concurrent-trials", "1")


@pytest.mark.search
def test_a_search_looks_says_so_and_goes_on_at_the_same_look_if_it_is_killed(
    simulated, small, four, tmp_path, monkeypatch, capsys
):
    plain_loss = trial.loss_of
    monkeypatch.setattr(trial, "loss_of", lambda sites, ranks, spec, step: (
        plain_loss(sites, ranks, spec, step) + random.Random(f"{spec.label} {spec.seed}").gauss(0, 0.03)))  # fmt: skip
    flags = [*small, *four, *AUTO, "--margin", "0.00001", "--runs-dir", str(tmp_path)]
    assert main([*flags, "--name", "unbroken"]) == 0
    out, rows = capsys.readouterr().out, read_rows(tmp_path / "unbroken" / "rows.jsonl")
    assert "5 to 40 fresh seeds for the verdict" in out
    assert "runs from 5 fresh seeds" in out
    for verdict in assess(rows, 0.00001).verdicts:
        assert verdict.pairs.seeds in LOOKS
        assert f"Look: {verdict.strategy}, after {verdict.pairs.seeds} seeds: " in out
        assert f"  {verdict.strategy}: {verdict.reads}. " in out
    assert "- **Looks at seeds:** after 5, 10, 20, 40 seeds" in (tmp_path / "unbroken" / "report.md").read_text()

    assert "after 10 seeds: " in out, "none of this is tried otherwise"
    for ended in (4 + 7, 4 + 4 * 5 + 2):  # within the first look, and within what follows it
        with monkeypatch.context() as patch:
            ray_tune.kill_at(patch, lambda harvest: len(harvest.record.rows) == ended)  # noqa: B023
            with pytest.raises(ray_tune.Killed):
                main([*flags, "--name", f"killed{ended}"])
        assert main(["--resume", f"killed{ended}", "--runs-dir", str(tmp_path)]) == 0
        again = read_rows(tmp_path / f"killed{ended}" / "rows.jsonl")
        assert [(row.trial_id, row.test_loss) for row in again] == [(row.trial_id, row.test_loss) for row in rows]
