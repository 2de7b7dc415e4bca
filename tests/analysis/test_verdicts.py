"""From confirmation rows to a verdict, a recommendation and the report's words."""

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.report import verdict_section
from analysis.report.report import render
from analysis.results.rows import ResultRow, write_rows
from analysis.results.run_info import RunInfo
from analysis.stats import controls, verdicts

MARGIN = 0.01
RANKS = {"transformer.h.0.attn.c_attn": 2}


def run(strategy, seed, test_loss, phase="confirm", **values):
    fields = {
        "status": "finished" if test_loss is not None else "diverged", "trainable_parameters": 1000,
        "final_eval_loss": None if test_loss is None else test_loss + 0.1, "ranks": RANKS, "alphas": {}, **values,
    }  # fmt: skip
    name = f"{strategy}_seed{seed}" if phase == "confirm" else f"{strategy}_{seed}"
    return ResultRow(name, name, strategy, phase=phase, seed=seed, test_loss=test_loss, **fields)


def runs(strategy, *losses, **values):
    return [run(strategy, seed, loss, **values) for seed, loss in enumerate(losses, 1)]


KINDS = ("shuffled", "inverted")
PLAIN = runs("baseline", 4.00, 4.10, 4.20)


def only(rows):
    (verdict,) = verdicts.verdicts(rows, MARGIN)
    return verdict


def test_differences_are_paired_by_seed_whatever_the_order():
    better = runs("empirical", 3.95, 4.051, 4.149)
    verdict = only([*reversed(PLAIN), *better])
    assert sorted(verdict.pairs.differences) == pytest.approx([-0.051, -0.05, -0.049])
    assert verdict.answer == "win"


def test_what_pairing_would_find_is_not_found_across_seeds():
    # the same numbers, paired wrongly: the spread between seeds hides the difference
    worse_paired = [run("empirical", seed, loss) for seed, loss in ((1, 4.149), (2, 4.051), (3, 3.95))]
    assert only([*PLAIN, *worse_paired]).answer == "cannot tell"


def test_search_trials_never_enter_a_verdict():
    searched = [run("empirical", seed, 1.0, phase="search") for seed in range(3)]
    assert verdicts.verdicts([*PLAIN, *searched], MARGIN) == []


def test_a_run_that_diverged_is_not_left_out_to_flatter_the_rest():
    verdict = only([*PLAIN, *runs("empirical", 3.95, 4.051, None)])
    assert (verdict.answer, verdict.diverged, verdict.needed) == ("cannot tell", 1, None)


def test_a_run_that_failed_takes_its_pair_along_and_no_more():
    failed = run("empirical", 4, None, status="failed")
    verdict = only([*PLAIN, run("baseline", 4, 4.3), *runs("empirical", 3.95, 4.051, 4.149), failed])
    assert (verdict.pairs.seeds, verdict.answer, verdict.failed) == (3, "win", 1)
    assert "1 of the runs compared failed, and their seeds are left out." in verdict_section.headline([verdict])[0]


def test_parameters_are_those_of_finished_runs_and_unknown_ones_are_not_fewer():
    midway = run("empirical", 4, None, status="failed", trainable_parameters=1250)
    assert only([*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), midway]).params == 1000
    unknown = only([*PLAIN, *runs("empirical", 4.005, 4.1051, 4.2049, trainable_parameters=None)])
    assert (unknown.params, unknown.answer) == (None, "loss")


def test_every_further_strategy_makes_each_interval_wider():
    better = runs("empirical", 3.95, 4.051, 4.149)
    alone = only([*PLAIN, *better])
    together = next(
        v for v in verdicts.verdicts([*PLAIN, *better, *runs("linear_decay", 4.0, 4.1, 4.2)], MARGIN)
        if v.strategy == "empirical"
    )  # fmt: skip
    assert together.pairs.interval[1] > alone.pairs.interval[1]


@pytest.mark.parametrize(
    ("frozen", "said"),
    [
        ((3.950, 4.051, 4.149), "are worse: how it trains, or its learning rate, matters"),
        ((3.80, 3.901, 3.999), "are better: its ranks are worth more than how it trains"),
        ((3.95, 3.90, 4.05), "these seeds cannot tell the ranks that its best trial ended with"),
        ((3.901, 4.0, 4.099), "are as good"),
    ],
)
def test_ranks_found_while_training_are_judged_apart_from_the_training_and_from_their_places(frozen, said):
    adalora = runs("adalora", 3.90, 4.00, 4.10)
    frozen_runs = runs("frozen", *frozen, config={"frozen": {"of": "adalora"}})
    shuffled = runs("shuffled", *(loss + 0.1 for loss in frozen), config={"shuffled": {"of": "frozen"}})
    rows = [*PLAIN, *adalora, *frozen_runs, *shuffled]
    text = "\n".join(verdict_section.section(rows, MARGIN))
    assert [item.strategy for item in verdicts.verdicts(rows, MARGIN)] == ["adalora"]
    assert (
        "the ranks that its best trial ended with, given to plain LoRA from the start at plain LoRA's learning" in text
    )
    assert said in text
    assert "- **frozen adalora against shuffled frozen:** its ranks are better where they are" in text


def test_a_control_is_judged_against_its_original_and_not_against_plain_lora():
    shuffled = runs("shuffled", 4.0, 4.1, 4.2, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    rows = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), *shuffled]
    assert [v.strategy for v in verdicts.verdicts(rows, MARGIN)] == ["empirical"]
    (control,) = controls.controls(rows)
    assert (control.name, control.original, control.kind) == ("shuffled empirical", "empirical", "shuffled")
    assert control.pairs.differences == pytest.approx((-0.05, -0.049, -0.051))
    assert "the places matter" in "\n".join(verdict_section.section(rows, MARGIN))


def test_a_measured_allocation_that_does_not_beat_its_shuffle_is_told_so():
    shuffled = runs("shuffled", 3.949, 4.052, 4.148, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    rows = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), *shuffled]
    assert "carry no information: shuffled is as good" in "\n".join(verdict_section.section(rows, MARGIN))


def test_a_wide_interval_shows_no_information_and_rules_none_out():
    shuffled = runs("shuffled", 3.9, 4.2, 4.1, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    text = "\n".join(verdict_section.section([*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), *shuffled], MARGIN))
    assert "it does not beat shuffled: these seeds show no information" in text
    assert "nor rule it out" in text


def test_nothing_is_said_against_a_control_where_a_run_diverged():
    shuffled = runs("shuffled", 4.0, 4.1, 4.2, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    originals = [*runs("empirical", 3.95, 4.051, 4.149), run("empirical", 4, None, status="diverged")]
    text = "\n".join(verdict_section.section([*PLAIN, *originals, *shuffled], MARGIN))
    assert "nothing can be said, 1 of the runs compared diverged" in text
    assert "the places matter" not in text


def test_of_two_that_win_the_one_of_lower_evaluation_loss_is_recommended_whatever_the_test_split_says():
    one = runs("empirical", 3.90, 4.001, 4.099, final_eval_loss=3.5)
    other = runs("composite", 3.80, 3.901, 3.999, final_eval_loss=3.6)
    rows = [*PLAIN, *other, *one]
    assert [item.answer for item in verdicts.verdicts(rows, MARGIN)] == ["win", "win"]
    assert verdicts.recommended(rows, MARGIN).strategy == "empirical"
    assert verdict_section.difference_in_words(one[0], rows).startswith(
        "-0.1000 nats per token against plain LoRA of the same seed"
    )
    assert verdict_section.difference_in_words(PLAIN[0], rows) is None


def test_an_interval_takes_texts_in_where_all_runs_know_theirs():
    def with_texts(rows, *shares):
        return [replace(row, test_documents=[(share * row.test_loss * 100, 100) for share in shares]) for row in rows]

    plain, better = with_texts(PLAIN, 1.0, 1.0), with_texts(runs("empirical", 3.95, 4.05, 4.15), 0.99, 1.01)
    verdict = only([*plain, *better])
    # texts differ by 2 % of 4.05 either way, seeds not at all
    assert verdict.pairs.documents == (100, 100)
    text_differences = [(-0.05 - share / 100, -0.05 + share / 100) for share in (3.95, 4.05, 4.15)]
    assert np.array(verdict.pairs.by_document) / 100 == pytest.approx(np.array(text_differences))
    assert verdict.answer == "cannot tell"
    assert only([*plain, *better[:2], replace(better[2], test_documents=None)]).pairs.documents == ()
    without_texts = only([*PLAIN, *runs("empirical", 3.95, 4.05, 4.15)])
    assert without_texts.answer == "win"
    assert "It holds for these test texts alone" in verdict_section.headline([without_texts])[0]
    assert "texts alone" not in verdict_section.headline([verdict])[0]
    legend = "\n".join(verdict_section.section([*plain, *better], MARGIN))
    assert "other test texts: the 2 documents of the split differ, too" in legend
    assert "No number of seeds would tell" in legend


def test_plain_lora_that_wins_with_a_share_of_the_budget_is_not_said_to_be_what_is_left_without_a_win():
    small = {"baseline": {"budget_share": 0.4}}
    rows = [*PLAIN, *runs("baseline", 3.9, 4.001, 4.099, config=small, trainable_parameters=400)]
    text = render(rows, RunInfo("now"))
    assert "**baseline at 0.4 of the budget: win.**" in text
    assert "no strategy wins" not in text
    assert "of the strategies that win against plain LoRA" in text
    assert "**This run alone:** -0.1000 nats per token" in text


def test_a_smaller_one_that_is_as_good_is_judged_beside_the_whole_one():
    whole, small = ({"empirical": {"budget_share": share}} for share in (1.0, 0.4))
    rows = [*PLAIN, *runs("empirical", 4.001, 4.1, 4.199, config=whole)]
    rows += runs("empirical", 4.003, 4.104, 4.203, config=small, trainable_parameters=400)
    answers = {item.strategy: item.answer for item in verdicts.verdicts(rows, MARGIN)}
    assert answers == {"empirical": "tie", "empirical at 0.4 of the budget": "non-inferior with fewer parameters"}
    assert verdicts.recommended(rows, MARGIN).strategy == "baseline"
    better = [replace(row, test_loss=row.test_loss - 1, final_eval_loss=row.final_eval_loss - 1) for row in rows[-3:]]
    assert verdicts.recommended([*rows[:-3], *better], MARGIN).trainable_parameters == 400


def test_a_control_is_judged_against_the_allocation_of_its_own_size():
    whole, small = ({"budget_share": share} for share in (1.0, 0.4))
    rows = [*PLAIN]
    for choices, size, losses, shuffled_losses in (
        (whole, 1000, (3.95, 4.051, 4.149), (3.990, 4.091, 4.189)),
        (small, 400, (4.003, 4.104, 4.203), (3.903, 4.004, 4.103)),
    ):
        rows += runs("empirical", *losses, config={"empirical": choices}, trainable_parameters=size)
        rows += runs(
            "shuffled", *shuffled_losses, config={"shuffled": {"of": "empirical", **choices}}, trainable_parameters=size
        )
    judged = {item.name: (item.original, round(item.pairs.mean, 6)) for item in controls.controls(rows)}
    assert judged == {
        "shuffled empirical": ("empirical", -0.04),
        "shuffled empirical at 0.4 of the budget": ("empirical at 0.4 of the budget", 0.1),
    }


def test_every_further_control_makes_each_interval_wider():
    better = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149)]
    shuffled, inverted = (runs(kind, 4.0, 4.1, 4.2, config={kind: {"of": "empirical"}}) for kind in KINDS)
    ((alone,), (first, _)) = controls.controls([*better, *shuffled]), controls.controls([*better, *shuffled, *inverted])
    assert first.pairs.interval[1] > alone.pairs.interval[1]
    text = "\n".join(controls.section([*better, *shuffled, *inverted], MARGIN))
    assert "Each interval is at 97.5 %; the 2 together right 95 % of the time." in text


def test_a_winner_is_recommended_by_its_run_of_lowest_evaluation_loss():
    rows = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), run("empirical", 9, 1.0, phase="search")]
    assert verdicts.recommended(rows, MARGIN).experiment_name == "empirical_seed1"


def test_without_a_win_plain_lora_is_recommended():
    rows = [*PLAIN, *runs("empirical", 4.2, 4.05, 3.9), run("empirical", 9, 1.0, phase="search")]
    assert verdicts.recommended(rows, MARGIN).strategy == "baseline"


def test_without_confirmation_the_best_trial_is_recommended_and_no_verdict_is_said():
    rows = [run("empirical", 0, 3.0, phase="search"), run("baseline", 0, 4.0, phase="search")]
    assert verdicts.recommended(rows, MARGIN).strategy == "empirical"
    text = render(rows, RunInfo("now"))
    assert "no verdict" in text
    assert "nothing has confirmed it" in text


def test_the_report_has_the_seeds_sections_about_the_search_and_then_the_verdict():
    rows = [run("empirical", 0, 3.0, phase="search"), run("baseline", 0, 4.0, phase="search"), *PLAIN]
    text = render([*rows, *runs("empirical", 4.001, 4.1, 4.199)], RunInfo("now"))
    assert "- **Total Experiments:** 2" in text
    assert text.index("## Key Findings") < text.index("## Verdict") < text.index("## Winner")
    assert "3. **Adaptive vs Baseline:** Empirical: tie" in text
    assert "from seeds 1, 2, 3," in text
    assert "trials empirical 1 (1 in full), baseline 1 (1 in full)" in text
    assert "no strategy wins, so plain LoRA is recommended" in text
    assert "**Looks:**" not in text
    again = RunInfo("now", looks=2)
    assert "judged 2 times on the same test split" in render([*rows, *runs("empirical", 4.001, 4.1, 4.199)], again)


def test_seeds_that_would_be_enough_are_told_when_it_cannot_tell():
    lines = verdict_section.headline([only([*PLAIN, *runs("empirical", 3.97, 4.06, 4.23)])])
    assert "cannot tell" in lines[0]
    assert "seeds would tell" in lines[0]


def test_several_searches_are_compared_by_their_verdicts(tmp_path, command):
    better, same = runs("empirical", 3.95, 4.051, 4.149), runs("empirical", 4.001, 4.1, 4.199)
    unconfirmed = [run("empirical", 0, 3.0, phase="search")]
    for name, rows in (("a", [*PLAIN, *better]), ("b", [*PLAIN, *same]), ("c", unconfirmed)):
        (tmp_path / name).mkdir()
        write_rows(rows, tmp_path / name / "rows.jsonl")
        (tmp_path / name / "plan.json").write_text(json.dumps({"model": f"model-{name}", "dataset": "texts"}))
    folders = [str(tmp_path / name) for name in "abc"]
    refused = command(*folders)
    assert (refused.returncode, "--output" in refused.stderr) == (2, True)
    assert command(*folders, "--output", tmp_path / "all.md").returncode == 0
    text = (tmp_path / "all.md").read_text()
    assert "| a        | model-a | texts  | 1,000        | empirical  | win" in text
    assert "| b        | model-b | texts  | 1,000        | empirical  | tie" in text
    assert "none: no confirmation runs" in text
    assert "| empirical  | 1     | 1     |" in text
    assert "<h1>Adaptive LoRA: Searches Compared</h1>" in (tmp_path / "all.html").read_text()


def test_a_win_smaller_than_what_matters_is_told_so():
    small = verdict_section.headline([only([*PLAIN, *runs("empirical", 3.992, 4.0921, 4.1919)])])
    assert "win" in small[0]
    assert "less than the 0.01 that was said to matter" in small[0]
    assert "said to matter" not in verdict_section.headline([only([*PLAIN, *runs("empirical", 3.95, 4.051, 4.149)])])[0]


@pytest.mark.parametrize(("best", "said"), [(0.05, True), (0.046, True), (0.02, False), (0.002, True)])
def test_a_best_learning_rate_at_the_edge_of_those_tried_is_told(best, said):
    rates = [0.002, 0.004, 0.01, 0.02, 0.046, 0.05]
    trials = [
        run(
            "empirical",
            number,
            3.0 if rate == best else 4.0,
            phase="search",
            config={"empirical": {"learning_rate": rate}},
        )
        for number, rate in enumerate(rates)
    ]
    text = "\n".join(verdict_section.section([*PLAIN, *runs("empirical", 3.9, 4.0, 4.1), *trials], MARGIN))
    assert ("Of empirical the best rate is at the edge of those tried" in text) is said
