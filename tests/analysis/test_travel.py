"""What several searches have in common."""

import pytest

from analysis.report.compare import Search, render
from analysis.results.run_info import RunInfo
from analysis.stats.travel import ahead, allocation_of, order_of_ranks, order_of_strategies
from tests.fakes.rows import PLAIN, assess, run, runs

BETTER = runs("empirical", 3.95, 4.051, 4.149)
WORSE = runs("linear_decay", 4.05, 4.149, 4.251)
RISING = {"layers.0.q": 1, "layers.1.q": 2, "layers.2.q": 3, "layers.3.q": 4}


def ranked(rows, ranks):
    return [run(row.strategy, row.seed, row.test_loss, ranks=ranks) for row in rows]


def search(name, *rows, **info):
    return Search(name, RunInfo("now", **info), assess(rows))


def cells(text, heading):
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_ahead_is_the_lowest_mean_and_plain_lora_if_none_is_below_it():
    assert ahead(assess([*PLAIN, *BETTER, *WORSE])) == "empirical"
    assert ahead(assess([*PLAIN, *WORSE])) == "baseline"
    assert ahead(assess([run("empirical", 0, 3.0, phase="search")])) is None


def test_the_order_of_strategies_is_of_those_that_both_have():
    one = {"a": -3.0, "b": -2.0, "c": -1.0, "only here": -9.0}
    assert order_of_strategies(one, {"a": 1.0, "b": 2.0, "c": 3.0, "only there": 0.0}) == (pytest.approx(1), 3)
    assert order_of_strategies(one, {"a": 3.0, "b": 2.0, "c": 1.0}) == (pytest.approx(-1), 3)
    assert order_of_strategies(one, {"a": 1.0}) == (None, 1)


def test_ranks_of_models_of_other_depth_are_compared_at_the_same_relative_depth():
    deeper = {f"model.layers.{block}.q": 1 + block for block in range(10)}
    assert order_of_ranks(RISING, deeper) == (pytest.approx(1), 4)
    assert order_of_ranks(deeper, RISING) == (pytest.approx(1), 4)
    falling = {name: 9 - rank for name, rank in deeper.items()}
    assert order_of_ranks(RISING, falling) == (pytest.approx(-1), 4)
    last_alone = {f"model.layers.{block}.q": int(block == 9) for block in range(10)}
    assert order_of_ranks({"layers.0.q": 0, "layers.1.q": 5}, last_alone) == (pytest.approx(1), 2)


def test_matrices_of_other_names_and_equal_ranks_have_no_order():
    assert order_of_ranks(RISING, {"h.0.c_attn": 1, "h.1.c_attn": 2}) == (None, 0)
    assert order_of_ranks(RISING, dict.fromkeys(RISING, 2)) == (None, 4)


def test_the_allocation_is_of_what_came_nearest_even_where_plain_lora_is_used():
    assert allocation_of(assess([*PLAIN, *ranked(WORSE, RISING)])).ranks == RISING
    unconfirmed = [run("baseline", 0, 2.0, phase="search"), run("empirical", 0, 3.0, phase="search", ranks=RISING)]
    assert allocation_of(assess(unconfirmed)).strategy == "empirical"
    assert allocation_of(assess([run("baseline", 0, 2.0, phase="search")])) is None


def test_plain_lora_on_a_set_of_matrices_is_plain_lora_and_no_allocation_that_came_near():
    mlp = runs("plain", 4.0, 4.101, 4.2005, config={"plain": {"modules": "mlp"}}, final_eval_loss=3.0,
               ranks={"layers.0.q": 0, "layers.0.up": 3})  # fmt: skip
    one, other = search("a", *PLAIN, *mlp, *ranked(WORSE, RISING)), search("b", *PLAIN, *mlp)
    assert allocation_of(one.assessment).ranks == RISING
    assert allocation_of(other.assessment) is None
    text = render([one, other], "now")
    assert [line[5] for line in cells(text, "What Won Where")] == ["plain LoRA on the MLP, ranks 0 to 3"] * 2
    ahead_of_all = search(
        "c", *PLAIN, *[run(row.strategy, row.seed, row.test_loss - 0.5, config=row.config) for row in mlp]
    )
    said = render([ahead_of_all, one], "now")
    assert "plain LoRA on the MLP in 1, plain LoRA in 1, of 2 with verdicts" in said
    assert cells(said, "What Travels")[0][2:4] == ["plain LoRA on the MLP", "plain LoRA"]


def test_what_won_where_is_one_table_with_a_line_for_each_search():
    text = render(
        [
            search("a", *PLAIN, *BETTER, model="m", dataset="d", budget_params=1000),
            search("b", *PLAIN, *WORSE),
            search("c", run("empirical", 0, 3.0, phase="search")),
        ],
        "now",
    )
    won, lost, unknown = cells(text, "What Won Where")
    assert won[:6] == ["a", "m", "d", "1,000", "adaptive", "empirical, rank 2"]
    assert won[6].startswith("empirical: -4.88% (-5.")  # exp(-0.05) - 1
    assert lost[4:6] == ["plain", "plain LoRA, rank 2"]
    assert lost[6].startswith("linear_decay: +5.13% (")
    assert unknown[4:] == ["undecided", "empirical, rank 2", "", ""]
    assert "empirical in 1, plain LoRA in 1, of 2 with verdicts" in text


def test_what_travels_has_a_line_for_each_pair_of_searches():
    one = search("a", *PLAIN, *ranked(BETTER, RISING), *WORSE)
    same = search("b", *PLAIN, *ranked(runs("empirical", 3.9, 4.0, 4.1), RISING), *runs("linear_decay", 4.1, 4.2, 4.3))
    bare = search("c", run("baseline", 0, 3.0, phase="search"))
    lines = cells(render([one, same, bare], "now"), "What Travels")
    assert lines[0] == ["a", "b", "empirical", "empirical", "2", "+1.00", "4", "+1.00"]
    assert lines[1] == ["a", "c", "empirical", "", "0", "", "0", ""]
    assert len(lines) == 3
