"""From confirmation rows to a verdict and the report's words."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from analysis.results.rows import write_rows
from analysis.stats.recommendation import Choice, recommend
from tests.fakes.rows import PLAIN, assess, only, report, run, runs, words


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
    assert assess([*PLAIN, *searched]).verdicts == []


def test_a_run_that_diverged_is_not_left_out_to_flatter_the_rest():
    verdict = only([*PLAIN, *runs("empirical", 3.95, 4.051, None)])
    assert (verdict.answer, verdict.diverged, verdict.needed) == ("cannot tell", 1, None)


def test_a_run_that_failed_takes_its_pair_along_and_no_more():
    failed = run("empirical", 4, None, status="failed")
    rows = [*PLAIN, run("baseline", 4, 4.3), *runs("empirical", 3.95, 4.051, 4.149), failed]
    verdict = only(rows)
    assert (verdict.pairs.seeds, verdict.answer, verdict.failed) == (3, "win", 1)
    assert "1 of the runs compared failed, and their seeds are left out." in assess(rows).answer[0]


def test_parameters_are_those_of_finished_runs_and_unknown_ones_are_not_fewer():
    midway = run("empirical", 4, None, status="failed", trainable_parameters=1250)
    assert only([*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), midway]).params == 1000
    unknown = only([*PLAIN, *runs("empirical", 4.005, 4.1051, 4.2049, trainable_parameters=None)])
    assert (unknown.params, unknown.answer) == (None, "loss")


def test_every_further_strategy_makes_each_interval_wider():
    better = runs("empirical", 3.95, 4.051, 4.149)
    alone = only([*PLAIN, *better])
    together = next(
        v for v in assess([*PLAIN, *better, *runs("linear_decay", 4.0, 4.1, 4.2)]).verdicts
        if v.strategy == "empirical"
    )  # fmt: skip
    assert together.pairs.interval[1] > alone.pairs.interval[1]


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
    texts_alone = [*PLAIN, *runs("empirical", 3.95, 4.05, 4.15)]
    assert only(texts_alone).answer == "win"
    assert "It holds for these test texts alone" in assess(texts_alone).answer[0]
    assert "texts alone" not in assess([*plain, *better]).answer[0]
    legend = words([*plain, *better])
    assert "other test texts: the 2 documents of the split differ, too" in legend
    assert "No number of seeds would tell" in legend


def test_the_report_has_the_verdict_and_then_the_seeds_sections_about_the_search():
    rows = [run("empirical", 0, 3.0, phase="search"), run("baseline", 0, 4.0, phase="search"), *PLAIN]
    text = report([*rows, *runs("empirical", 4.001, 4.1, 4.199)])
    assert "- **Total Experiments:** 2" in text
    assert text.index("## Verdict") < text.index("## Key Findings") < text.index("## Winner")
    assert "3. **Adaptive vs Baseline:** Empirical: tie" in text
    assert "from seeds 1, 2, 3," in text
    assert "trials empirical 1 (1 in full), baseline 1 (1 in full)" in text
    assert "no strategy wins, so plain LoRA is recommended" in text
    assert "**Looks:**" not in text
    again = report([*rows, *runs("empirical", 4.001, 4.1, 4.199)], looks=2)
    assert "judged 2 times on the same test split" in again


def test_seeds_that_would_be_enough_are_told_when_it_cannot_tell():
    lines = assess([*PLAIN, *runs("empirical", 3.97, 4.06, 4.23)]).answer
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
    assert "| a        | model-a | texts  | 1,000        | empirical  | ahead, not yet tried against" in text
    assert "| b        | model-b | texts  | 1,000        | empirical  | tie" in text
    assert "none: no confirmation runs" in text
    assert re.search(r"(?m)^\| empirical  \| 1 +\| 1 +\|$", text)
    assert "<h1>Adaptive LoRA: Searches Compared</h1>" in (tmp_path / "all.html").read_text()


def test_a_win_smaller_than_what_matters_is_told_so():
    # -.008 on average, and as low as -.0108: it may matter, or not
    small = assess([*PLAIN, *runs("empirical", 3.991, 4.092, 4.193)])
    assert (small.verdicts[0].answer, small.recommended.strategy) == ("win", "empirical")
    assert "less than the 0.01 that was said to matter" in small.answer[0]
    assert "said to matter" not in assess([*PLAIN, *runs("empirical", 3.95, 4.051, 4.149)]).answer[0]


def test_what_is_ahead_by_less_than_matters_for_certain_is_no_win_and_plain_lora_is_used():
    small = assess([*PLAIN, *runs("empirical", 3.992, 4.0921, 4.1919)])
    assert small.verdicts[0].answer == "ahead, by too little to matter"
    assert "less than the 0.01 that was said to matter" in small.answer[0]
    assert small.recommended == PLAIN[0]
    advice = recommend(small)
    assert advice.choice is Choice.PLAIN
    assert advice.sentences[1].startswith("Nothing beat it by what matters (empirical by less); with 3 seeds ")


BEHIND = runs("composite", 4.05, 4.149, 4.251)


def searched(strategy, *losses):
    return [run(strategy, number, None if loss is None else loss - 0.1, "search") for number, loss in enumerate(losses)]


def test_what_has_plain_lora_as_a_point_and_lost_was_not_searched_for_long_enough():
    # by Laplace's rule the next trial comes up with 1 / (4 + 2); 8.8 more do so with 80 %: (5 / 6) ** 8.8 = .2
    trials = [*searched("baseline", 3.5, 3.6), *searched("composite", 3.7, 3.8, 3.9, None)]
    short = assess([*PLAIN, *BEHIND, *trials])
    assert short.verdicts[0].answer == "not found: the search was too short"
    assert "none of its 4 trials came up to plain LoRA's best, and about 13 trials of it would" in short.answer[0]
    assert recommend(short).sentences[2].endswith("Of composite the search was too short: plain LoRA is a point of it.")


def test_where_trials_came_up_to_plain_lora_and_the_choice_among_them_lost_the_validation_split_is_too_small():
    trials = [*searched("baseline", 3.5, 3.6), *searched("composite", 3.5, 3.8)]
    (line,) = assess([*PLAIN, *BEHIND, *trials]).answer
    assert "1 of its 2 trials came up to plain LoRA's best on the validation split" in line
    assert "--validation-examples" in line


def test_where_plain_lora_was_the_best_point_of_a_strategy_the_verdict_on_its_best_other_says_so():
    told, alike = "In the search plain LoRA, one of its points, did better than all its trials", (4.0, 4.101, 4.199)
    trials = [*searched("baseline", 3.5), *searched("composite", 3.6), *searched("eva", 3.6)]
    assert told in assess([*PLAIN, *runs("composite", *alike), *trials]).answer[0]
    assert told not in assess([*PLAIN, *runs("eva", *alike), *trials]).answer[0], "it is no point of that"
    assert told not in assess([*PLAIN, *runs("composite", *alike), *trials, *searched("composite", 3.5)]).answer[0]
    assert told not in assess([*PLAIN, *BEHIND, *trials]).answer[0], "none came up to plain LoRA's, which says the same"


def test_what_does_not_have_plain_lora_as_a_point_loses():
    assert only([*PLAIN, *runs("eva", 4.05, 4.149, 4.251)]).answer == "loss"


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
    text = words([*PLAIN, *runs("empirical", 3.9, 4.0, 4.1), *trials])
    assert ("Of empirical the best rate is at the edge of those tried" in text) is said


def test_runs_whose_seed_nobody_knows_are_no_pairs():
    unknown = [replace(row, seed=None) for row in (*PLAIN, *runs("empirical", 3.5, 3.6, 3.7))]
    verdict = only(unknown)
    assert (verdict.answer, verdict.pairs.seeds) == ("cannot tell", 0)


def test_a_loss_beyond_all_perplexities_is_told_like_any_other():
    text = report([*PLAIN, *runs("empirical", 3000.0, 3001.0, 3002.0)])
    assert "empirical: loss." in text
