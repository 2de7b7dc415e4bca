"""Plain LoRA at other sizes: what is made of their rows, worked by hand."""

import math

import pytest

from analysis.report import answer, verdict_section
from analysis.report.verdict_file import content
from analysis.results.run_info import RunInfo
from analysis.stats.sizes import margin_in_nats, sizes_of
from tests.fakes.rows import PLAIN, assess, run, runs
from tuning.results.summary import lines

A_QUARTER = "0.25doublings"
BETTER = runs("eva", 3.996, 4.096, 4.196)


def sized(share, *losses, **values):
    """Runs of plain LoRA whose validation losses are a tenth higher, as all of these rows have it."""
    config = {"baseline": {"budget_share": share}}
    params = round(1000 * share)
    fields = {"phase": "sizes", "config": config, "trainable_parameters": params, **values}
    return [run("baseline", seed, loss, **fields) for seed, loss in enumerate(losses, 1)]


HALF, DOUBLE = sized(0.5, 4.0073, 4.1083, 4.2063), sized(2.0, 3.9927, 4.0917, 4.1937)
ROWS = [*PLAIN, *HALF, *DOUBLE, *BETTER]


def test_sizes_are_in_doublings_and_in_no_other_comparison():
    sizes = sizes_of(ROWS, PLAIN)
    assert sizes.doublings == (-1.0, 0.0, 1.0)
    assert [len(size) for size in sizes.runs] == [3, 3, 3]
    assert [item.strategy for item in assess(ROWS, 0.01).verdicts] == ["eva"]
    assert assess(ROWS, 0.01).recommended == assess([*PLAIN, *BETTER], 0.01).recommended


def test_a_doubling_gains_half_of_what_lies_between_half_and_double():
    gain = sizes_of(ROWS, PLAIN).gain
    # (4.0073 - 3.9927) / 2 and so on: .0073, .0083, .0063
    assert sorted(gain.differences) == pytest.approx([0.0063, 0.0073, 0.0083])


def test_the_margin_is_a_quarter_of_what_a_doubling_gains_for_certain_on_the_validation_split():
    # mean .0073, deviation .001, Student's t 4.302653: at least .0073 - .002484 = .004816, a quarter is .001204;
    # between half and double lie .0146, .0166, .0126: their standard error is .002 / sqrt(3) = .001155
    assert margin_in_nats(A_QUARTER, sizes_of(ROWS, PLAIN)) == pytest.approx(0.001204, abs=1e-6)
    assert assess(ROWS, A_QUARTER).margin == pytest.approx(0.001204, abs=1e-6)
    # a tenth of it is less than that error
    assert margin_in_nats("0.1doublings", sizes_of(ROWS, PLAIN)) == pytest.approx(0.002 / math.sqrt(3))


def test_the_margin_is_at_least_half_a_thousandth_and_without_sizes_a_hundredth():
    flat = [*PLAIN, *sized(2.0, 4.0, 4.1, 4.2)]
    assert margin_in_nats(A_QUARTER, sizes_of(flat, PLAIN)) == 0.0005
    assert margin_in_nats(A_QUARTER, sizes_of(PLAIN, PLAIN)) == 0.01
    assert margin_in_nats(0.02, sizes_of(ROWS, PLAIN)) == 0.02


def test_no_test_loss_is_in_the_margin():
    shifted = [
        run("baseline", row.seed, row.test_loss + 0.5 * row.seed, "sizes", final_eval_loss=row.final_eval_loss,
            config=row.config, trainable_parameters=row.trainable_parameters) for row in DOUBLE
    ]  # fmt: skip
    assert assess([*PLAIN, *HALF, *shifted], A_QUARTER).margin == assess([*PLAIN, *HALF, *DOUBLE], A_QUARTER).margin


def test_a_size_that_diverged_or_is_none_is_left_out():
    assert sizes_of([*PLAIN, *HALF, *sized(2.0, 3.9, 4.0, None)], PLAIN).doublings == (-1.0, 0.0)
    assert sizes_of([*PLAIN, *sized(2.0, 3.9, 4.0, 4.1, trainable_parameters=1000)], PLAIN) is None
    assert sizes_of([*PLAIN, *sized(2.0, 3.9)], PLAIN) is None


def test_a_verdict_says_what_it_is_worth_wherever_it_is_told(tmp_path):
    assessment = assess(ROWS, A_QUARTER)
    worth = assessment.worth["eva"]
    assert worth.times == pytest.approx(2 ** (4 / 7.3), abs=0.01)
    assert worth.sentence in "".join(assessment.answer).replace("Worth", "worth")
    info = RunInfo("now")
    section = "\n".join(answer.section(assessment, info))
    assert f"it beat plain LoRA and is {worth.sentence}." in section
    assert "**What rank is worth here:** Doubling plain LoRA's parameters lowers its test loss by 0.0073" in section
    legend = "\n".join(verdict_section.section(assessment))
    assert "0.25doublings: that share of what doubling plain LoRA's parameters gains" in legend
    assert "0.5, 1, 2 times were trained" in legend
    (judged,) = content(assessment, info)["strategies"]
    assert judged["worth"]["sentence"] == worth.sentence
    assert judged["worth"]["low"] < judged["worth"]["times"] < judged["worth"]["high"]
    assert [size["times"] for size in content(assessment, info)["sizes"]] == [0.5, 1, 2]
    assert content(assessment, info)["per_doubling"]["gain"] == pytest.approx(0.0073)
    assert content(assessment, info)["margin_asked"] == A_QUARTER


def test_parameters_are_those_of_plain_lora_on_all_matrices_and_where_the_verdict_is_against_another_that_is_said():
    plain = runs("plain", 3.999, 4.098, 4.2, config={"plain": {"modules": "mlp"}}, final_eval_loss=3.0)
    assessment = assess([*ROWS, *plain], A_QUARTER)
    assert assessment.reference == "plain"
    assert assessment.worth["eva"].times == pytest.approx(2 ** (4 / 7.3), abs=0.01)
    said = "orth 1.5 times the parameters of plain LoRA on all matrices ("
    assert f"W{said}" in assessment.answer[0]
    judged = content(assessment, RunInfo("now"))["strategies"]
    assert f"w{said}" in next(item["worth"]["sentence"] for item in judged if item["strategy"] == "eva")
    assert "**Worth:** plain LoRA on all matrices" in "\n".join(verdict_section.section(assessment))


def test_the_last_lines_of_a_search_say_what_rank_is_worth(tmp_path):
    from tuning.plan.search_plan import SearchPlan

    said = lines(SearchPlan(name="a", runs_dir=str(tmp_path)), assess(ROWS, A_QUARTER), "", "", None)
    assert any(line.startswith("  What rank is worth here: Doubling") for line in said)
    assert any("Worth 1.5 times the parameters" in line for line in said)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*sized(0.5, 4.0, 4.1, 4.2), *sized(2.0, 4.0, 4.1, 4.2)], "More rank is worth nothing here: use half of it."),
        ([*sized(0.5, 4.01, 4.11, 4.21), *sized(2.0, 4.0, 4.1, 4.2)], "The ceiling is reached: 2 times the parameters"),
        ([*sized(0.5, 4.03, 4.08, 4.2), *sized(2.0, 4.02, 4.07, 4.2)], "These seeds do not show that more parameters"),
    ],
)
def test_where_more_rank_is_worth_nothing_or_nobody_can_tell_that_is_said(rows, said):
    sizes = sizes_of([*PLAIN, *rows], PLAIN)
    assert said in " ".join(sizes.sentences(0.0005))


def test_where_sizes_are_alike_nothing_is_said_in_parameters():
    flat = [*PLAIN, *sized(0.5, 4.0, 4.1, 4.2), *sized(2.0, 4.0, 4.1, 4.2)]
    assessment = assess([*flat, *BETTER], A_QUARTER)
    assert assessment.worth == {}
    assert "orth" not in assessment.answer[0]
    assert "no difference can be said in parameters" in "\n".join(answer.section(assessment, RunInfo("now")))


def test_without_sizes_the_margin_says_why_it_is_no_share_and_nothing_is_worth_anything():
    assessment = assess([*PLAIN, *BETTER], A_QUARTER)
    assert (assessment.worth, assessment.margin) == ({}, 0.01)
    assert "0.01, not 0.25doublings: no other size of plain LoRA was trained" in "\n".join(
        verdict_section.section(assessment)
    )
    assert content(assessment, RunInfo("now"))["strategies"][0]["worth"] is None
