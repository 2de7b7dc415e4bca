"""Rows of searches, made by hand, and what is said of them."""

from analysis.report import verdict_section
from analysis.report.report import render
from analysis.results.rows import ResultRow
from analysis.results.run_info import CONTAINING_PLAIN, RunInfo
from analysis.stats import assessment

MARGIN = 0.01
RANKS = {"transformer.h.0.attn.c_attn": 2}


def run(strategy, seed, test_loss, phase="confirm", **values):
    fields = {
        "status": "finished" if test_loss is not None else "diverged", "trainable_parameters": 1000,
        "final_eval_loss": None if test_loss is None else test_loss + 0.1, "ranks": RANKS, "alphas": {}, **values,
    }  # fmt: skip
    name = f"{strategy}_seed{seed}" if phase == "confirm" else f"{strategy}_{seed}"
    return ResultRow(name, name, strategy, phase=phase, seed=seed, test_loss=test_loss, **fields)


def runs(strategy, *losses, **values):
    return [run(strategy, seed, loss, **values) for seed, loss in enumerate(losses, 1)]


PLAIN = runs("baseline", 4.00, 4.10, 4.20)


def assess(rows, margin=MARGIN):
    return assessment.assess(rows, margin, CONTAINING_PLAIN)


def only(rows):
    (verdict,) = assess(rows).verdicts
    return verdict


def words(rows):
    """Return the report's section on the verdict."""
    return "\n".join(verdict_section.section(assess(rows)))


def report(rows, **info):
    """Return the report without pictures; ``info`` is what is known of the run."""
    return render(assess(rows), RunInfo("now", **info))
