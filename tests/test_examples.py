"""The scripts in ``examples/`` do what they say."""

import ast
import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from analysis.report import answer
from analysis.results.rows import read_rows, write_rows
from analysis.results.run_info import RunInfo
from analysis.stats.assessment import assess
from analysis.stats.statistics import span
from tests.fakes.rows import PLAIN, run, runs

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "first_screen.py"
MIXED = {"transformer.h.0.attn.c_attn": 0, "transformer.h.1.attn.c_attn": 5}
BETTER = runs("empirical", 3.95, 4.051, 4.149, training_time_seconds=2.25, ranks=MIXED, trainable_parameters=940)
SLIGHTLY = runs("linear_decay", 3.94, 4.049, 4.152, budget_share=0.5, trainable_parameters=500)
WORSE = runs("attention_heavy", 4.05, 4.149, 4.251)
CONTROL = runs("shuffled", 1.0, 1.1, 1.2, control_of="empirical")
SEARCHED = [run("empirical", 9, 3.0, phase="search"), run("linear_decay", 8, None, phase="search")]


def documents(rows):
    """Give each run losses of four documents, of which its test loss is the mean per token."""
    shares = ((0.1, 30), (0.4, 90), (0.2, 55), (0.3, 125))
    return [
        dataclasses.replace(
            row,
            test_documents=[
                [300 * row.test_loss * (s + 0.01 * ((row.seed + n) % 3 - 1)), t] for n, (s, t) in enumerate(shares)
            ],
        )
        for row in rows
    ]


def numbers(text):
    return {number.rstrip(".,") for number in re.findall(r"[+-]?\d[\d,.]*", text)}


def first_screen(folder):
    """Return what the report shows there, code aside, and the numbers that its figure draws."""
    info = RunInfo.of_run(folder, "now")
    assessment = assess(read_rows(folder / "rows.jsonl"), info.margin, info.containing_plain)
    figure = [f"{item.pairs.mean:+.4f} {span(item.pairs.interval)}" for item in assessment.verdicts]
    return "\n".join([*answer.section(assessment, info), "```"]).partition("```")[0] + "\n".join(figure)


def recomputed(folder, capsys):
    runpy.run_path(str(SCRIPT))["main"](folder)
    return capsys.readouterr().out


LOOKED = {"looks": "5,10,20,40"}
FIVE = (4.0, 4.1, 4.2, 4.05, 4.15)


def sized(share, *losses):
    """Runs of plain LoRA at a share of the budget."""
    config = {"baseline": {"budget_share": share}}
    params = {"phase": "sizes", "config": config, "trainable_parameters": round(1000 * share)}
    return [dataclasses.replace(row, trial_id=f"{row.trial_id}_{share}") for row in runs("baseline", *losses, **params)]


def on_the_mlp(*losses, **values):
    return runs("plain", *losses, config={"plain": {"modules": "mlp"}}, final_eval_loss=3.0, **values)


QUARTER, HALF, DOUBLE = sized(0.25, 4.03, 4.131, 4.228), sized(0.5, 4.014, 4.115, 4.213), sized(2.0, 3.99, 4.089, 4.191)
ALL_SIZES = [*QUARTER, *HALF, *DOUBLE, *sized(4.0, 3.985, 4.084, 4.187)]
BETTER_BY_LITTLE = runs("empirical", 3.993, 4.0925, 4.1935, ranks=MIXED, trainable_parameters=940)
MUCH_BETTER = [dataclasses.replace(row, trainable_parameters=990) for row in BETTER]

SEARCHES = {
    "sizes": [*PLAIN, *HALF, *DOUBLE, *BETTER_BY_LITTLE, *WORSE],
    "all sizes": [*PLAIN, *ALL_SIZES, *BETTER_BY_LITTLE],
    "worth more than all sizes": [*PLAIN, *HALF, *DOUBLE, *MUCH_BETTER],
    "sizes and documents": documents([*PLAIN, *ALL_SIZES, *BETTER_BY_LITTLE, *WORSE]),
    "more rank is worth nothing": [*PLAIN, *sized(0.5, 4.0, 4.1001, 4.1999), *sized(2.0, 4.0, 4.1, 4.2001), *BETTER],
    "looks": [
        *runs("baseline", *FIVE, *(loss + 0.001 for loss in FIVE), config=LOOKED),
        *runs("empirical", 3.95, 4.051, 4.149, 4.001, 4.098, config=LOOKED),
        *runs("eva", *(loss + 0.02 for loss in (*FIVE, *FIVE)), config=LOOKED),
    ],
    "against a set of matrices": [*PLAIN, *HALF, *DOUBLE, *on_the_mlp(3.999, 4.098, 4.2), *BETTER_BY_LITTLE],
    "a set of matrices that nothing beat": [*PLAIN, *on_the_mlp(3.999, 4.098, 4.2), *WORSE],
    "a null": [*PLAIN, *runs("layer_lr", 3.9, 4.001, 4.099), *BETTER],
    "a winner": [*PLAIN, *BETTER, *WORSE, *SEARCHED],
    "a winner and its controls": [*PLAIN, *BETTER, *SLIGHTLY, *CONTROL, *SEARCHED],
    "no winner": [*PLAIN, *WORSE],
    "nobody can tell": [*PLAIN, *runs("composite", 4.05, 4.06, 4.2)],
    "documents": documents([*PLAIN, *BETTER, *WORSE]),
}


@pytest.mark.parametrize("margin", [0.01, "0.25doublings"])
@pytest.mark.parametrize("name", SEARCHES)
def test_every_number_of_the_first_screen_is_recomputed_from_the_rows(name, margin, tmp_path, capsys):
    rows = [dataclasses.replace(row, training_time_seconds=row.training_time_seconds or 1.5) for row in SEARCHES[name]]
    write_rows(rows, tmp_path / "rows.jsonl")
    (tmp_path / "plan.json").write_text(json.dumps({"train_examples": 1200, "margin": margin}))
    (tmp_path / "facts.json").write_text(json.dumps({"base_losses": {"test_loss": 5.0}, "budget_params": 1000}))
    screen = first_screen(tmp_path)
    missing = numbers(screen) - numbers(recomputed(tmp_path, capsys))
    assert missing == set(), screen


def test_so_is_that_of_the_search_whose_results_are_kept(capsys):
    folder = ROOT / "docs" / "results" / "2026-11-27-bundled"
    screen = first_screen(folder)
    assert len(numbers(screen)) > 15
    assert numbers(screen) - numbers(recomputed(folder, capsys)) == set()


def test_the_script_imports_nothing_but_numpy_pandas_and_what_comes_with_python():
    tree = ast.parse(SCRIPT.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {
        name
        for node in imports
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert modules - {*sys.stdlib_module_names} == {"numpy", "pandas"}
