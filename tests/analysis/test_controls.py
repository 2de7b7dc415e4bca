"""Whether it matters where an allocation puts its ranks, and how it trains."""

import pytest

from tests.fakes.rows import PLAIN, assess, run, runs, words

KINDS = ("shuffled", "inverted")


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
    text = words(rows)
    assert [item.strategy for item in assess(rows).verdicts] == ["adalora"]
    assert (
        "the ranks that its best trial ended with, given to plain LoRA from the start at plain LoRA's learning" in text
    )
    assert said in text
    assert "- **frozen adalora against shuffled frozen:** its ranks are better where they are" in text


def test_a_control_is_judged_against_its_original_and_not_against_plain_lora():
    shuffled = runs("shuffled", 4.0, 4.1, 4.2, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    rows = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), *shuffled]
    assert [v.strategy for v in assess(rows).verdicts] == ["empirical"]
    (control,) = assess(rows).controls
    assert (control.name, control.original, control.kind) == ("shuffled empirical", "empirical", "shuffled")
    assert control.pairs.differences == pytest.approx((-0.05, -0.049, -0.051))
    assert "the places matter" in words(rows)


def test_a_measured_allocation_that_does_not_beat_its_shuffle_is_told_so():
    shuffled = runs("shuffled", 3.949, 4.052, 4.148, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    rows = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), *shuffled]
    assert "carry no information: shuffled is as good" in words(rows)


def test_a_wide_interval_shows_no_information_and_rules_none_out():
    shuffled = runs("shuffled", 3.9, 4.2, 4.1, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    text = words([*PLAIN, *runs("empirical", 3.95, 4.051, 4.149), *shuffled])
    assert "it does not beat shuffled: these seeds show no information" in text
    assert "nor rule it out" in text


def test_nothing_is_said_against_a_control_where_a_run_diverged():
    shuffled = runs("shuffled", 4.0, 4.1, 4.2, config={"strategy": "shuffled", "shuffled": {"of": "empirical"}})
    originals = [*runs("empirical", 3.95, 4.051, 4.149), run("empirical", 4, None, status="diverged")]
    text = words([*PLAIN, *originals, *shuffled])
    assert "nothing can be said, 1 of the runs compared diverged" in text
    assert "the places matter" not in text


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
    judged = {item.name: (item.original, round(item.pairs.mean, 6)) for item in assess(rows).controls}
    assert judged == {
        "shuffled empirical": ("empirical", -0.04),
        "shuffled empirical at 0.4 of the budget": ("empirical at 0.4 of the budget", 0.1),
    }


def test_every_further_control_makes_each_interval_wider():
    better = [*PLAIN, *runs("empirical", 3.95, 4.051, 4.149)]
    shuffled, inverted = (runs(kind, 4.0, 4.1, 4.2, config={kind: {"of": "empirical"}}) for kind in KINDS)
    both = [*better, *shuffled, *inverted]
    ((alone,), (first, _)) = assess([*better, *shuffled]).controls, assess(both).controls
    assert first.pairs.interval[1] > alone.pairs.interval[1]
    assert "Each interval is at 97.5 %; the 2 together right 95 % of the time." in words(both)
