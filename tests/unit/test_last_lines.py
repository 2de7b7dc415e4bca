"""The last lines of a search end with its answer, in the words of the report."""

import pytest

from analysis.report.answer import section
from analysis.results.run_info import RunInfo
from analysis.stats.recommendation import recommend
from tests.fakes.rows import PLAIN, assess, run, runs
from tuning.plan.search_plan import SearchPlan
from tuning.results import summary


@pytest.mark.parametrize(("ranks", "said"), [((0, 16), "scale)"), ((3, 17), "scale; vLLM needs --max-lora-rank 32)")])
def test_where_the_adapter_is_the_flag_stands_that_vllm_takes_its_rank_with(tmp_path, ranks, said):
    plan = SearchPlan(name="one", runs_dir=str(tmp_path))
    (plan.run_dir / "best_adapter_uniform").mkdir(parents=True)
    chosen = run("eva", 1, 4.0, phase="search", ranks=dict(zip("ab", ranks, strict=True)))
    (line,) = summary.adapter_lines(plan, assess([chosen]))
    assert line.endswith(f"(the same for vLLM and SGLang: one rank, one {said}")


def test_a_search_ends_with_the_three_sentences_of_its_report():
    rows = [*PLAIN, *runs("linear_decay", 4.05, 4.149, 4.251)]
    rows.append(run("baseline", 9, 4.0, phase="search", trainable_parameters=None))
    last = summary.lines(SearchPlan(name="one"), assess(rows), "", "", None)[-4:]
    assert last == ["", *recommend(assess(rows)).sentences]
    assert last[1] == "Use plain LoRA, rank 2."
    in_report = "\n".join(section(assess(rows), RunInfo("now")))
    assert all(sentence in in_report for sentence in last)


def test_of_a_model_that_was_adapted_in_part_the_last_line_and_the_answer_say_so():
    coverage = "adapted: 28 of 68 matrices, 46% of their parameters; left out: 4 routers (they choose experts)"
    said = (
        "This is about what was adapted (28 of 68 matrices, 46% of their parameters) and says nothing of what was left "
        "out."
    )
    assert summary.lines(SearchPlan(name="one"), assess(PLAIN), "", "", coverage)[-1] == said
    assert said in "\n".join(section(assess(PLAIN), RunInfo("now", coverage=coverage)))
    whole = coverage.partition(";")[0]
    assert "This is about" not in "\n".join(section(assess(PLAIN), RunInfo("now", coverage=whole)))
