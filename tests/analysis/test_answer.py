"""The report's first section."""

import re

import pytest

from analysis.report.answer import ADAPTER, section
from analysis.report.pictures import drawn
from analysis.report.report import render
from analysis.results.run_info import RunInfo
from tests.analysis.test_report import SEED_SECTIONS
from tests.fakes.rows import PLAIN, assess, report, run, runs
from trainables.training.checkpoint import BEST

BETTER = runs("empirical", 3.95, 4.051, 4.149, training_time_seconds=2.0)
WORSE = runs("eva", 4.05, 4.149, 4.251)
STOPPED = run(
    "composite", 7, None, phase="search", status="stopped", trainable_parameters=900, training_time_seconds=3.5,
    config={"composite": {"learning_rate": 0.002}}, history=({"step": 5, "eval_loss": 4.321}, {"step": 6}),
)  # fmt: skip
INFO = {"model": "org/model", "dataset": "texts", "train_examples": 1200, "budget_params": 1000}


def answer(*rows, **info):
    return "\n".join(section(assess(rows), RunInfo("now", **info)))


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_answer_names_model_data_and_budget_and_nothing_that_is_unknown():
    budget = "**Budget:** 1,000 trainable parameters, the same as plain LoRA of rank 2"
    assert f"**Model:** org/model · **Data:** texts, 1,200 training examples · {budget}\n" in answer(*PLAIN, **INFO)
    assert "None" not in answer(*PLAIN)


def test_the_table_has_the_base_plain_lora_and_the_winner_with_means_over_their_seeds():
    base, plain, winner = cells(answer(*PLAIN, *BETTER, *WORSE, base_losses={"test_loss": 5.0, "eval_loss": 6.0}))
    assert base == ["the base, untouched", "5.0000", "148.41", "0", ""]
    assert plain == ["plain LoRA, rank 2", "4.1000", "60.34", "1,000", ""]  # the mean of 4.0, 4.1 and 4.2; its exp
    assert winner == ["**empirical, rank 2**", "4.0500", "57.40", "1,000", "2.0 s"]


def test_without_a_winner_the_table_has_what_came_nearest_and_its_answer():
    plain, nearest = cells(answer(*PLAIN, *WORSE))
    assert plain[0] == "**plain LoRA, rank 2**"
    assert nearest[0] == "eva: loss"


def test_without_confirmation_the_table_says_that_its_runs_are_single_ones():
    rows = [run("empirical", 0, 3.0, phase="search"), run("baseline", 0, 4.0, phase="search")]
    plain, best = cells(answer(*rows, base_losses={"eval_loss": float("nan")}))[-2:]
    assert plain[:2] == ["best single run of plain LoRA, rank 2", "4.1000"]
    assert best[:2] == ["best single run of empirical, rank 2", "3.1000"]
    assert "nan" not in answer(*rows, base_losses={"eval_loss": float("nan")})


def test_three_lines_load_the_adapter_of_the_run():
    (code,) = re.findall("```python\n(.*?)```", answer(*PLAIN, **INFO, model_revision="abc"), re.DOTALL)
    assert len(code.splitlines()) == 3
    compile(code, "code", "exec")
    assert "from_pretrained('org/model', revision='abc', dtype=torch.float32)\n" in code
    assert f"from_pretrained(base, '{ADAPTER}')\n" in code
    assert ADAPTER == BEST


def test_the_base_is_loaded_as_it_was_in_training():
    text = answer(*PLAIN, **INFO, base_dtype="bfloat16")
    assert "from_pretrained('org/model', dtype=torch.bfloat16)\n" in text
    text = answer(*PLAIN, **INFO, base_dtype="bfloat16", quantize="nf4")
    (code,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    compile(code, "code", "exec")
    assert "load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16" in code
    assert "from_pretrained('org/model', dtype=torch.bfloat16, quantization_config=bits)\n" in code


def test_what_a_plan_says_of_memory_is_no_code():
    text = answer(*PLAIN, **INFO, base_dtype="float32); evil(", quantize="evil")
    assert "evil" not in text


def test_nothing_to_use_is_said_in_a_line_without_table_or_code():
    text = answer(run("baseline", 1, None, phase="search"))
    assert "Nothing can be recommended" in text
    assert "|" not in text
    assert "```" not in text


def test_the_figure_of_differences_is_in_the_answer_and_nowhere_else():
    assessment = assess([*PLAIN, *BETTER])
    text = render(assessment, RunInfo("now"), drawn(assessment, RunInfo("now")))
    assert text.count("](figures/differences.svg)") == 1
    assert text.index("## Answer") < text.index("](figures/differences.svg)") < text.index("## Verdict")


def test_a_stopped_trial_shows_where_it_stopped_with_learning_rate_parameters_and_status():
    text = report([STOPPED, run("composite", 8, 4.0, phase="search", history=({"step": 20, "eval_loss": 4.1},))])
    (line,) = [line for line in text.splitlines() if re.match(r"\| composite_7 .*stopped", line)]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "composite_7", "composite", "stopped", "0.002", "900", "4.3210", "6", "20", "3.5 s",
    ]  # fmt: skip


def test_outside_the_seeds_sections_nothing_is_nan():
    shrink = [{"fraction": 1.0, "params": 100, "test_loss": 4.0}]
    evidence = {"gradient": {"a": 1.0, "b": 2.0}, "activation": {"a": 1.0, "b": 1.0}}  # the same everywhere: no order
    rows = [STOPPED, run("empirical", 1, None, phase="search"), *PLAIN, *BETTER]
    rows += [run("empirical", 9, 4.0, phase="search", history=({"step": 1, "eval_loss": float("nan")},))]
    text = report(rows, shrink=shrink, evidence=evidence)
    sections = re.split("(?m)^## ", text)
    nans = [name.splitlines()[0] for name in sections if re.search(r"(?i)\bnan\b", name)]
    assert {"Summary Statistics", "Detailed Results"} <= {*nans} <= {*SEED_SECTIONS}


@pytest.mark.parametrize("rows", [[*PLAIN, *WORSE], [*PLAIN, *BETTER], [run("empirical", 1, 3.0, phase="search")]])
def test_what_praises_single_runs_says_so(rows):
    text = report(rows)
    assert "These are the best single runs of the search" in text.partition("## Best Performers")[2][:200]
    assert "compare nothing" in text.partition("## Strategy Rankings")[2][:300]


def test_an_adapter_that_could_not_be_verified_is_not_to_be_loaded():
    rows = [run(strategy, seed, 4.0 + seed / 10) for strategy in ("baseline", "empirical") for seed in (1, 2)]
    sound = report(rows, handed_out={"best_adapter": 4.0, "best_adapter_uniform": 4.0})
    assert "from_pretrained(base, 'best_adapter')" in sound
    text = report(rows, handed_out={"best_adapter_unverified": 4.1, "best_adapter_uniform": 4.0})
    assert "from_pretrained(base," not in text
    assert "not to be used: best_adapter_unverified, loaded by plain Transformers and PEFT alone: 4.10000 nats" in text
