"""What strategies are judged against, and which rivals a win beats."""

import json

import pytest

from analysis.report.verdict_file import content
from analysis.results.rows import write_rows
from analysis.results.run_info import RunInfo
from analysis.stats import assessment
from analysis.stats.recommendation import Choice, recommend
from analysis.stats.verdicts import NOT_FOUND, NOT_TRIED, NULLS
from strategies import STRATEGIES
from tests.fakes.rows import MARGIN, PLAIN, assess, report, run, runs, words

BETTER = runs("empirical", 3.95, 4.051, 4.149)


def on_the_mlp(*losses, **values):
    return runs("plain", *losses, config={"plain": {"modules": "mlp"}}, **values)


def verdict_of(strategy, rows):
    (verdict,) = (item for item in assess(rows).verdicts if item.strategy == strategy)
    return verdict


def test_a_win_over_plain_lora_alone_is_ahead_and_not_yet_tried_and_used_all_the_same():
    rows = [*PLAIN, *BETTER]
    verdict = verdict_of("empirical", rows)
    assert (verdict.answer, verdict.reads) == ("win", NOT_TRIED)
    assert assess(rows).answer[0].startswith(f"- **empirical: {NOT_TRIED}.**")
    assert "It was not tried against the strongest rivals (plain, random and layer_lr)." in assess(rows).answer[0]
    advice = recommend(assess(rows))
    assert (advice.choice, advice.run) == (Choice.ADAPTIVE, BETTER[0])
    assert advice.sentences[1].endswith(
        "It was not tried against the strongest rivals (plain, random and layer_lr). To try all of them: --thorough."
    )
    assert f"| empirical  | {NOT_TRIED} |" in words(rows)


def test_a_win_that_was_tried_against_all_rivals_is_one_and_says_which_it_beats():
    # of the validation losses, test loss + .1, one rank everywhere has the lower mean, so that is the reference
    shuffled = control("shuffled", "empirical", 4.0, 4.1, 4.2)
    rivals = [*on_the_mlp(4.01, 4.11, 4.21), *runs("random", 3.951, 4.05, 4.15), *runs("layer_lr", 4.0, 4.101, 4.199)]
    rows = [*PLAIN, *BETTER, *shuffled, *rivals]
    verdict = verdict_of("empirical", rows)
    # against random -.001, .001, -.001, against all others about -.05 or -.06
    assert (verdict.tried.beaten, verdict.tried.unbeaten) == (("shuffled", "plain", "layer_lr"), ("random",))
    assert (verdict.reads, verdict.tried.missing) == ("win", ())
    said = (
        "It beats its scores dealt to other matrices (shuffled), plain LoRA on a set of matrices (plain) and learning "
        "rates by depth in place of ranks (layer_lr); it does not beat ranks at random (random)."
    )
    assert said in assess(rows).answer[0]
    assert "--thorough" not in " ".join(recommend(assess(rows)).sentences)


def test_a_rival_whose_runs_ended_badly_is_named_and_no_other_search_is_advised_for_it():
    others = [*runs("layer_lr", 4.0, 4.101, 4.199), *on_the_mlp(4.01, 4.11, 4.21)]
    said = recommend(assess([*PLAIN, *BETTER, *others, *runs("random", 4.0, None, None)])).sentences[1]
    assert said.endswith("it was not tried against ranks at random (random). Too few runs of random ended well.")
    said = recommend(assess([*PLAIN, *BETTER, run("random", 9, None, phase="search")])).sentences[1]
    assert said.endswith("Too few runs of random ended well. To try all of them: --thorough.")


def control(name, of, *losses):
    return runs(name, *losses, config={name: {"of": of}})


def test_what_wins_are_tried_against_shares_one_level():
    # -.010, -.012, -.008: the half-width is .0050 at 95 % and .0145 at an eighth of 5 %, for random wins, too
    near = runs("random", 3.96, 4.063, 4.157)
    assert verdict_of("empirical", [*PLAIN, *BETTER, *near]).tried.beaten == ("random",)
    controls = [row for name in ("shuffled", "inverted", "frozen") for row in control(name, "empirical", 4.5, 4.6, 4.7)]
    far = [*on_the_mlp(4.5, 4.6, 4.7), *runs("layer_lr", 4.5, 4.6, 4.7), *controls]
    assert verdict_of("empirical", [*PLAIN, *BETTER, *near, *far]).tried.unbeaten == ("random",)


def test_controls_of_another_are_no_rivals_and_one_whose_runs_diverged_was_not_tried():
    other = control("shuffled", "composite", 4.0, 4.1, 4.2)
    rows = [*PLAIN, *BETTER, *other, *runs("random", 4.0, None, None)]
    tried = verdict_of("empirical", rows).tried
    assert (tried.beaten, tried.unbeaten, tried.missing) == ((), (), ("plain", "random", "layer_lr"))


def test_plain_lora_on_a_set_of_matrices_is_the_reference_where_its_validation_loss_is_lower():
    # the test losses say the opposite: they have no part in the choice
    ahead = on_the_mlp(4.02, 4.121, 4.219, final_eval_loss=3.0)
    rows = [*PLAIN, *ahead, *runs("empirical", 3.97, 4.072, 4.168)]
    said = assess(rows)
    assert (said.reference, said.plain_runs) == ("plain", ahead)
    assert [item.strategy for item in said.verdicts] == ["empirical", "baseline"]
    assert said.verdicts[0].pairs.mean == pytest.approx(-0.05)
    assert said.answer[0].split("Test loss ")[1].startswith("-0.0500 against plain LoRA on the MLP (interval ")
    assert "plain LoRA on the MLP (plain), and not plain LoRA (baseline)" in words(rows)
    assert said.difference_to_plain(ahead[0]) is None
    alike = on_the_mlp(4.0, 4.101, 4.199, final_eval_loss=3.0)
    without_a_win = assess([*PLAIN, *alike])
    assert without_a_win.recommended == alike[0]
    assert recommend(without_a_win).sentences[0] == "Use plain LoRA on the MLP, rank 2."


def test_what_a_win_is_over_is_none_of_its_rivals_and_not_missing_either():
    # -.0115, -.0135, -.0095: the half-width is .0102 at a quarter of 5 %, as the verdict has it, and .0126 at a sixth
    ahead = on_the_mlp(3.9615, 4.0645, 4.1585, final_eval_loss=3.0)
    rivals = [*runs("random", 4.5, 4.6, 4.7), *runs("layer_lr", 4.5, 4.6, 4.7)]
    controls = [row for name in ("shuffled", "inverted", "frozen") for row in control(name, "empirical", 4.5, 4.6, 4.7)]
    rows = [*PLAIN, *ahead, *BETTER, *rivals, *controls]
    tried = verdict_of("empirical", rows).tried
    assert tried.beaten == ("shuffled", "inverted", "frozen", "random", "layer_lr")
    assert (tried.unbeaten, tried.missing) == ((), ())


def test_whether_two_kinds_of_plain_lora_differ_is_not_asked_of_a_search_but_where_there_is_nothing_else():
    ahead = on_the_mlp(4.02, 4.06, 4.23, final_eval_loss=3.0)
    plain, worse = verdict_of("baseline", [*PLAIN, *ahead]), runs("eva", 4.5, 4.541, 4.709)
    assert plain.answer == "cannot tell"
    advice = recommend(assess([*PLAIN, *ahead, *worse]))
    assert (advice.choice, advice.run.strategy) == (Choice.PLAIN, "plain")
    # the differences .48, .481 and .479 show .001 * (4.3027 + 1.0607) / sqrt(3), at half of 5 % a little more
    assert advice.sentences[1].startswith("Nothing beat it; with 3 seeds we would have seen 0.4")
    assert advice.sentences[2] == "So 1 %, the least that was said to matter, would have been seen."
    assert recommend(assess([*PLAIN, *ahead])).choice is Choice.UNDECIDED


LAYERS = runs("layer_lr", 3.9, 4.001, 4.099)


def test_a_null_that_wins_is_not_recommended_and_plain_lora_is():
    rows = [*PLAIN, *LAYERS, *runs("eva", 4.5, 4.6, 4.7)]
    assert verdict_of("layer_lr", rows).answer == "win"
    said, advice = report(rows), recommend(assess(rows))
    assert (advice.choice, advice.run) == (Choice.PLAIN, PLAIN[0])
    assert advice.sentences[0] == "Use plain LoRA, rank 2."
    assert advice.sentences[1].startswith(
        "Nothing beat it but learning rates by depth in place of ranks (layer_lr); a control is never recommended; "
    )
    assert "**plain LoRA, rank 2**" in said
    assert "is the run to use: only layer_lr wins, a control, so plain LoRA is recommended" in said


def test_beside_a_null_that_wins_a_strategy_that_does_is_recommended_however_far_it_is_behind():
    advice = recommend(assess([*PLAIN, *LAYERS, *BETTER]))
    assert (advice.choice, advice.run) == (Choice.ADAPTIVE, BETTER[0])
    assert advice.sentences[2] == (
        "So did learning rates by depth in place of ranks (layer_lr); a control is never recommended."
    )
    both = recommend(
        assess([*PLAIN, *runs("random", 3.9, 4.001, 4.099), *LAYERS, *BETTER, *runs("eva", 3.96, 4.061, 4.159)])
    )
    assert both.sentences[2].startswith(
        "eva beat plain LoRA, too; empirical has the lowest validation loss of them all. So"
    )


def test_a_null_within_a_share_of_the_budget_is_one_still():
    small = runs("random", 3.9, 4.001, 4.099, config={"random": {"budget_share": 0.5}})
    advice = recommend(assess([*PLAIN, *small]))
    assert advice.run == PLAIN[0]
    assert "but ranks at random (random at 0.5 of the budget); a" in advice.sentences[1]


def test_the_nulls_are_those_that_strategies_say_they_are():
    assert tuple(name for name, strategy in STRATEGIES.items() if strategy.is_null) == NULLS


def test_plain_lora_that_wins_has_no_rivals():
    ahead = on_the_mlp(4.05, 4.151, 4.249, final_eval_loss=3.0)
    (verdict,) = assess([*PLAIN, *ahead]).verdicts
    assert (verdict.strategy, verdict.reads, verdict.tried.missing) == ("baseline", "win", ())


@pytest.mark.parametrize("other", [on_the_mlp(3.9, 4.0, 4.1, final_eval_loss=5.0), on_the_mlp(3.9, 4.0, None)])
def test_it_is_not_where_that_is_higher_or_a_run_of_it_diverged(other):
    assert assess([*PLAIN, *other]).reference == "baseline"


def test_a_loss_to_a_set_of_matrices_is_one_for_it_is_no_point_of_what_contains_plain_lora():
    ahead = on_the_mlp(3.9, 4.0, 4.1)
    behind = runs("composite", 4.05, 4.149, 4.251)
    assert verdict_of("composite", [*PLAIN, *behind]).answer == NOT_FOUND
    assert verdict_of("composite", [*PLAIN, *behind, *ahead]).answer == "loss"


def test_a_strategy_of_ones_own_that_contains_plain_lora_was_not_searched_for_long_enough(tmp_path, command):
    rows = [*PLAIN, *runs("early_half", 4.05, 4.149, 4.251)]
    (mine,) = assessment.assess(rows, MARGIN, ("early_half",)).verdicts
    assert mine.answer == NOT_FOUND
    assert assess(rows).verdicts[0].answer == "loss"
    write_rows(rows, tmp_path / "rows.jsonl")
    (tmp_path / "plan.json").write_text('{"margin": 0.01}')
    (tmp_path / "facts.json").write_text('{"containing_plain": ["early_half"]}')
    assert json.loads(command(tmp_path, "--verdict").stdout)["strategies"][0]["answer"] == NOT_FOUND


def test_programs_read_which_rivals_are_beaten():
    random = runs("random", 4.0, 4.101, 4.199)
    judged = content(assess([*PLAIN, *BETTER, *random]), RunInfo("now"))
    assert judged["reference"] == "baseline"
    (win,) = (item for item in judged["strategies"] if item["strategy"] == "empirical")
    assert (win["answer"], win["reads"]) == ("win", NOT_TRIED)
    assert (win["beats"], win["does_not_beat"], win["not_tried"]) == (["random"], [], ["plain", "layer_lr"])
