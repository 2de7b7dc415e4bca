"""What to use, in three plain sentences."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats.recommendation import Choice, percent, recommend
from analysis.stats.statistics import Paired
from tests.fakes.rows import PLAIN, assess, run, runs

BETTER = runs("empirical", 3.95, 4.051, 4.149)
WORSE = runs("eva", 4.05, 4.149, 4.251)
UNCLEAR = runs("composite", 4.05, 4.06, 4.20)


def recommended(*rows):
    return recommend(assess(rows))


def test_what_beats_plain_lora_is_used_with_what_it_is_worth_and_how_sure_that_is():
    # differences of -0.05, -0.049, -0.051: mean -0.05, deviation 0.001; t of 1 - 0.025/2 with 2 degrees is 6.2053
    half = 6.2053 * 0.001 / math.sqrt(3)
    low, high = (100 * -math.expm1(-0.05 + sign * half) for sign in (1, -1))
    advice = recommended(*PLAIN, *BETTER, *WORSE)
    assert advice.choice is Choice.ADAPTIVE
    assert advice.run == BETTER[0]
    assert advice.sentences == (
        "Use empirical, with rank 2 and 1,000 parameters: it beat plain LoRA.",
        f"Its test perplexity is 4.9 % lower ({low:.2g} % to {high:.2g} %, 3 seeds); the intervals of both comparisons "
        "are right at once, 95 times in 100, for other seeds on these test texts. It was not tried against the "
        "strongest rivals (plain, random and layer_lr). To try all of them: --thorough.",
        "Of the others none beat it.",
    )


def test_without_a_win_plain_lora_is_used_and_the_sentences_say_what_would_have_been_seen():
    advice = recommended(*PLAIN, *WORSE)
    assert advice.choice is Choice.PLAIN
    assert advice.run == PLAIN[0]
    use, seen, more = advice.sentences
    assert use == "Use plain LoRA, rank 2."
    # 4.3027 and 1.0607 are t's quantiles 0.975 and 0.8 with 2 degrees of freedom
    least = (4.3027 + 1.0607) * 0.001 / math.sqrt(3)
    assert seen == f"Nothing beat it; with 3 seeds we would have seen {100 * least:.2g} %, 8 times in 10."
    assert more == "So 1 %, the least that was said to matter, would have been seen."


def test_where_of_one_nobody_can_tell_it_is_undecided_and_the_sentences_say_how_many_seeds_would_show_one_percent():
    advice = recommended(*PLAIN, *WORSE, *UNCLEAR)
    assert advice.choice is Choice.UNDECIDED
    assert advice.sentences[0] == "Use plain LoRA, rank 2."
    assert advice.sentences[1].startswith("Nothing beat it, but of composite it cannot be told yet; with 3 seeds we ")
    (verdict,) = (item for item in assess([*PLAIN, *WORSE, *UNCLEAR]).verdicts if item.strategy == "composite")
    needed = verdict.pairs.seeds_to_see(0.01)
    assert needed > 3
    assert advice.sentences[2] == f"To see 1 %: about {needed} seeds (--confirm-seeds)."


def test_where_nobody_can_tell_of_any_that_is_said_of_both_or_of_all():
    others = [[replace(row, strategy=name) for row in UNCLEAR] for name in ("eva", "adalora")]
    seconds = [recommended(*PLAIN, *UNCLEAR, *others[0], *more).sentences[1] for more in ([], others[1])]
    assert seconds[0].startswith("Nothing beat it, but of both it cannot be told yet; ")
    assert seconds[1].startswith("Nothing beat it, but of all 3 it cannot be told yet; ")


def test_a_share_of_the_budget_that_beats_the_whole_is_plain_lora_still():
    small = {"baseline": {"budget_share": 0.4}}
    advice = recommended(*PLAIN, *runs("baseline", 3.9, 4.001, 4.099, config=small, trainable_parameters=400))
    assert advice.choice is Choice.PLAIN
    assert advice.sentences[0].startswith("Use plain LoRA at 0.4 of the budget, with rank 2 and 400 parameters")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "No trial finished with a loss."),
        ([run("empirical", 1, 3.4, phase="search")], "a single run may be best by chance"),
        (PLAIN, "Nothing else was trained on the same seeds"),
        ([*PLAIN[:1], *BETTER[:1]], "at least two seeds"),
        ([*PLAIN, *runs("empirical", 3.9, 4.0, None)], "runs diverged"),
    ],
)
def test_what_was_not_compared_is_undecided_with_the_reason(rows, words):
    advice = recommended(*rows)
    assert advice.choice is Choice.UNDECIDED
    assert words in advice.sentences[1]


@given(st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=12, unique=True), st.floats(1e-4, 0.2))
def test_as_many_seeds_as_would_show_a_difference_show_it_and_one_fewer_does_not(differences, wanted):
    pairs = Paired(tuple(differences))
    needed = pairs.seeds_to_see(wanted)
    if needed is not None:
        assert pairs._shown(needed) <= wanted
        assert needed == 2 or pairs._shown(needed - 1) > wanted
    assert (pairs.visible <= wanted) == (needed is not None and needed <= pairs.seeds)


def test_a_percentage_has_two_digits():
    assert [percent(share) for share in (0.00123, 0.0123, 0.123, 0.88)] == ["0.12 %", "1.2 %", "12 %", "88 %"]
