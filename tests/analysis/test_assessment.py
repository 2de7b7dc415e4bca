"""What the rows of a search say: the run to use, and all else that is judged once."""

from dataclasses import replace

import pytest

from analysis.report import verdict_section
from analysis.results.rows import write_rows
from analysis.stats import verdicts
from analysis.stats.verdicts import NOT_TRIED
from tests.fakes.rows import PLAIN, assess, report, run, runs

BETTER = runs("empirical", 3.95, 4.051, 4.149)
WORSE = runs("eva", 4.05, 4.149, 4.251)


def test_all_that_is_asked_of_a_search_is_what_its_rows_say():
    best = run("empirical", 1, 3.4, phase="search", parameter_efficiency=0.02)
    small = run("empirical", 8, 3.6, phase="search", parameter_efficiency=0.01)
    plain = run("baseline", 9, 3.5, phase="search", parameter_efficiency=0.02)
    broken = run("eva", 10, None, phase="search")
    shuffled = runs("shuffled", 4.0, 4.1, 4.2, config={"shuffled": {"of": "empirical"}})
    superseded = run("empirical", 4, 1.0, phase="superseded")
    rows = [*WORSE, plain, broken, small, best, *PLAIN, *shuffled, superseded, *BETTER]
    assessment = assess(rows)
    assert assessment.searched == [plain, broken, small, best]
    assert assessment.best_of_each == {"baseline": plain, "empirical": best}
    assert (assessment.best_trial, assessment.most_efficient) == (best, small)
    assert assessment.confirmed == {
        "eva": WORSE, "baseline": PLAIN, "shuffled empirical": shuffled, "empirical": BETTER
    }  # fmt: skip
    assert assessment.plain_runs == PLAIN
    # differences of -0.05, -0.049, -0.051 and of 0.05, 0.049, 0.051
    assert [(item.strategy, item.answer) for item in assessment.verdicts] == [
        ("empirical", "win"), ("eva", "loss")
    ]  # fmt: skip
    assert [item.pairs.mean for item in assessment.verdicts] == pytest.approx([-0.05, 0.05])
    empirical, eva = assessment.answer
    assert empirical.startswith(f"- **empirical: {NOT_TRIED}.** Test loss -0.0500 against plain LoRA (interval ")
    assert eva.startswith("- **eva: loss.** Test loss +0.0500 against plain LoRA (interval ")
    assert [item.name for item in assessment.controls] == ["shuffled empirical"]
    assert assessment.recommended == BETTER[0]
    assert assessment.difference_to_plain(BETTER[1]) == pytest.approx(-0.049)
    assert assessment.difference_to_plain(PLAIN[0]) is None
    assert assessment.difference_to_plain(best) is None


def test_nothing_is_said_of_a_search_without_rows():
    assessment = assess([])
    assert [assessment.verdicts, assessment.answer, assessment.controls] == [[], [], []]
    assert (assessment.best_trial, assessment.most_efficient, assessment.recommended) == (None, None, None)


def test_a_report_judges_each_strategy_once_whoever_tells_of_it(tmp_path, command, monkeypatch):
    judge, judged = verdicts.judge, []
    monkeypatch.setattr(verdicts, "judge", lambda *pairs: judged.append(pairs) or judge(*pairs))
    write_rows([*PLAIN, *BETTER, *WORSE], tmp_path / "rows.jsonl")
    (tmp_path / "plan.json").write_text("{}")
    assert command(tmp_path).returncode == 0
    text = (tmp_path / "report.md").read_text()
    for said in (f"3. **Adaptive vs Baseline:** Empirical: {NOT_TRIED}; ", f"- **empirical: {NOT_TRIED}.** ",
                 f"empirical -0.0500, {NOT_TRIED}; ", "`empirical_seed1` is the run to use"):  # fmt: skip
        assert said in text
    assert len(judged) == 2
    assert command(tmp_path, tmp_path, "--output", tmp_path / "both.md").returncode == 0
    assert len(judged) == 2 + 2 * 2


def test_of_two_that_win_the_one_of_lower_evaluation_loss_is_recommended_whatever_the_test_split_says():
    one = runs("empirical", 3.90, 4.001, 4.099, final_eval_loss=3.5)
    other = runs("composite", 3.80, 3.901, 3.999, final_eval_loss=3.6)
    rows = [*PLAIN, *other, *one]
    assert [item.answer for item in assess(rows).verdicts] == ["win", "win"]
    assert assess(rows).recommended.strategy == "empirical"
    assert verdict_section.difference_in_words(one[0], assess(rows)).startswith(
        "-0.1000 nats per token against plain LoRA of the same seed"
    )
    assert verdict_section.difference_in_words(PLAIN[0], assess(rows)) is None


def test_plain_lora_that_wins_with_a_share_of_the_budget_is_not_said_to_be_what_is_left_without_a_win():
    small = {"baseline": {"budget_share": 0.4}}
    rows = [*PLAIN, *runs("baseline", 3.9, 4.001, 4.099, config=small, trainable_parameters=400)]
    text = report(rows)
    assert "**baseline at 0.4 of the budget: win.**" in text
    assert "no strategy wins" not in text
    assert "of the strategies that win against plain LoRA" in text
    assert "**This run alone:** -0.1000 nats per token" in text


def test_a_smaller_one_that_is_as_good_is_judged_beside_the_whole_one():
    whole, small = ({"empirical": {"budget_share": share}} for share in (1.0, 0.4))
    rows = [*PLAIN, *runs("empirical", 4.001, 4.1, 4.199, config=whole)]
    rows += runs("empirical", 4.003, 4.104, 4.203, config=small, trainable_parameters=400)
    answers = {item.strategy: item.answer for item in assess(rows).verdicts}
    assert answers == {"empirical": "tie", "empirical at 0.4 of the budget": "non-inferior with fewer parameters"}
    assert assess(rows).recommended.strategy == "baseline"
    better = [replace(row, test_loss=row.test_loss - 1, final_eval_loss=row.final_eval_loss - 1) for row in rows[-3:]]
    assert assess([*rows[:-3], *better]).recommended.trainable_parameters == 400


def test_a_winner_is_recommended_by_its_run_of_lowest_evaluation_loss():
    rows = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), run("empirical", 9, 1.0, phase="search")]
    assert assess(rows).recommended.experiment_name == "empirical_seed1"


def test_without_a_win_plain_lora_is_recommended():
    rows = [*PLAIN, *runs("empirical", 4.2, 4.05, 3.9), run("empirical", 9, 1.0, phase="search")]
    assert assess(rows).recommended.strategy == "baseline"


def test_without_confirmation_the_best_trial_is_recommended_and_no_verdict_is_said():
    rows = [run("empirical", 0, 3.0, phase="search"), run("baseline", 0, 4.0, phase="search")]
    assert assess(rows).recommended.strategy == "empirical"
    text = report(rows)
    assert "no verdict" in text
    assert "nothing has confirmed it" in text
