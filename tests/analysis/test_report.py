import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from analysis.__main__ import main
from analysis.report import publish
from analysis.report.card import Use, card
from analysis.report.drawing import save
from analysis.report.findings import key_findings
from analysis.report.pictures import Picture, drawn
from analysis.report.plots import heatmaps
from analysis.report.report import render, render_rows
from analysis.results.rows import ResultRow, read_rows, write_rows
from analysis.results.run_info import RunInfo
from tests.fakes.rows import assess, report

SEED = Path(__file__).parent / "seed"
SEED_SECTIONS = re.findall("(?m)^## (.*)", (SEED / "report.md").read_text())
RANKS = {"transformer.h.0.attn.c_attn": 3, "transformer.h.0.mlp.c_fc": 0, "transformer.h.10.mlp.c_fc": 2}
ALPHAS = {"transformer.h.0.attn.c_attn": 6.0, "transformer.h.10.mlp.c_fc": 4.0}


def row(name, strategy="baseline", loss=4.0, **values):
    values = {"status": "finished" if loss is not None else "diverged", "parameter_efficiency": 0.01, **values}
    return ResultRow(trial_id=name, experiment_name=name, strategy=strategy, final_eval_loss=loss, **values)


def test_the_seed_rows_give_the_seed_report_byte_for_byte_up_to_key_findings(tmp_path, command):
    done = command("--rows", SEED / "rows.csv", "--output", tmp_path / "r.md", "--dataset-size", 200, "--epochs", 3)
    assert done.returncode == 0, done.stderr
    ours, theirs = (path.read_text() for path in (tmp_path / "r.md", SEED / "report.md"))

    def comparable(text):
        start = text[: text.index("## Key Findings")]
        return [line for line in start.split("\n") if not line.startswith("**Generated:**")]

    assert comparable(ours) == comparable(theirs)


def findings(*rows):
    return "\n".join(key_findings(assess(rows)))


def test_a_diverged_trial_wins_nothing_and_is_named():
    text = findings(row("a", loss=5.0), row("b", "empirical", None, parameter_efficiency=0.001))
    assert "2. **Best Efficiency:** Baseline" in text
    assert "b (diverged)" in text


def test_a_stopped_trial_wins_nothing_either():
    text = findings(row("a", loss=5.0), row("b", "empirical", 1.0, status="stopped"))
    assert "best single run is a " in text


def test_one_run_a_strategy_concludes_nothing():
    text = findings(row("a", loss=4.0), row("b", "empirical", 3.0))
    assert "nothing can be concluded" in text
    assert "25.0% below" in text


def test_a_difference_is_never_a_zero_with_a_sign():
    assert "0.0%" not in findings(row("a", loss=5.1063), row("b", "empirical", 5.1065))
    assert "0.004% above" in findings(row("a", loss=5.1063), row("b", "empirical", 5.1065))
    assert "no different" in findings(row("a", loss=5.0), row("b", "empirical", 5.0))


def test_the_best_run_and_the_best_mean_are_told_apart():
    text = findings(row("a", loss=1.0), row("b", loss=9.0), row("c", "empirical", 3.0), row("d", "empirical", 3.2))
    assert "best single run is a (Baseline, evaluation loss 1.0000)" in text
    assert "best mean is that of Empirical (3.1000 over 2 runs)" in text


def test_runs_with_different_hyperparameters_conclude_nothing():
    rows = [row(f"{s}{i}", s, 4.0 + i, config={"x": i}) for s in ("baseline", "empirical") for i in range(2)]
    assert "hyperparameters" in findings(*rows)


def test_a_search_without_a_usable_trial_still_has_a_report():
    text = report([row("a", loss=None, error="loss nan at step 3")])
    assert text.count("no trial finished") == 2
    assert "loss nan at step 3" in text


@pytest.mark.parametrize("conv1d", [True, False])
def test_the_winner_is_given_as_ranks_and_as_a_configuration_that_runs(conv1d):
    winner = row("a", ranks=RANKS, alphas=ALPHAS, trainable_parameters=10, fan_in_fan_out=conv1d)
    text = report([winner])
    assert "|       0 |             3 |          0 |" in text
    code = text.partition("as a PEFT configuration")[2].split("```python\n")[1].split("```")[0]
    scope = {}
    exec(code, scope)
    config = scope["config"]
    assert {config.r, *config.rank_pattern.values()} == {2, 3}
    assert config.fan_in_fan_out is conv1d


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_survive_being_written_and_read(tmp_path, suffix):
    rows = [
        row(
            "a",
            ranks=RANKS,
            alphas=ALPHAS,
            config={"x": {"y": 1}},
            seed=0,
            tokens=5,
            fan_in_fan_out=False,
            history=({"step": 1},),
        ),
        row("b", loss=None, error='comma, "quote"\nline'),
    ]
    write_rows(rows, tmp_path / f"rows.{suffix}")
    assert read_rows(tmp_path / f"rows.{suffix}") == rows


def test_a_number_that_is_not_finite_is_no_row():
    with pytest.raises(ValueError, match="final_eval_loss"):
        row("a", loss=float("nan"))


@pytest.mark.process
def test_the_report_is_rebuilt_from_files_without_ray_torch_or_mlflow(tmp_path):
    """By the command as a user starts it."""
    write_rows([row("a", ranks=RANKS, alphas=ALPHAS, trainable_parameters=10)], tmp_path / "rows.jsonl")
    (tmp_path / "plan.json").write_text(json.dumps({"train_examples": 7, "epochs": 2.0}))
    code = (
        "import contextlib, runpy, sys\n"
        "with contextlib.suppress(SystemExit): runpy.run_module('analysis', run_name='__main__', alter_sys=True)\n"
        "assert not {'ray', 'torch', 'mlflow'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{tmp_path}/report.md\n", "")
    assert "**Dataset Size:** 7 examples" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "RUN_DIR"),
        (["--rows", "missing.csv", "--output", "x.md"], "missing.csv"),
        (["--rows", SEED / "rows.csv", "--output", "x.html"], "x.html"),
        (["missing"], "plan.json"),
        (["--rows", SEED / "report.md", "--output", "x.md"], "report.md"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, culprit, command):
    done = command(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert culprit in done.stderr


def test_a_broken_line_is_named_by_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows([row("a")], path)
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(ValueError, match="line 2"):
        read_rows(path)


def test_a_run_with_a_broken_line_has_a_report_of_the_others_and_a_warning(tmp_path, command):
    write_rows([row("a"), row("b"), row("c")], tmp_path / "rows.jsonl")
    (tmp_path / "plan.json").write_text("{}")
    first, second, third = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join((first, second[:-9], third)) + "\n")
    done = command(tmp_path)
    assert done.returncode == 0
    assert done.stderr == f"Warning: {tmp_path}/rows.jsonl: line 2: cut off, or no JSON; the report is without them\n"
    assert "**Total Experiments:** 2" in (tmp_path / "report.md").read_text()


def test_the_heatmap_is_a_picture(tmp_path):
    save(heatmaps({"ranks": RANKS}), tmp_path / "ranks.png", "png")
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_of_a_run_says_which_engine_trained_and_what_did_not_fit(tmp_path, command):
    write_rows([row("a")], tmp_path / "rows.jsonl")
    (tmp_path / "plan.json").write_text(json.dumps({"train_examples": 8}))
    (tmp_path / "facts.json").write_text(json.dumps({"engine": "packed, 4 at once", "resource_events": ["4 was much"]}))
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.md").read_text()
    assert "- **Engine:** packed, 4 at once\n- **Resource event:** 4 was much\n" in text


def test_the_report_says_where_the_wall_time_went_but_for_reports():
    seconds = {"imports": 3.25, "first_step": 20.0, "trials": 1234.5, "report": 9.0}
    text = report([row("a")], seconds=seconds)
    parts = "imports 3.2 s, first step 20.0 s, trials 1,234.5 s"
    assert f"\n- **Wall time before the report:** 1,257.8 s ({parts})\n" in text
    for unknown in ({}, {"report": 9.0}):
        assert "Wall time" not in report([row("a")], seconds=unknown)


def test_the_short_trials_that_found_the_learning_rate_are_told_with_those_that_diverged():
    losses = {0.0025: 4.73953, 0.01: 4.6394, 0.04: None}
    bracket = tuple({"learning_rate": rate, "steps": 19.0, "eval_loss": loss} for rate, loss in losses.items())
    text = report([row("a")], bracket=bracket)
    assert "evaluation loss in short trials of 19 steps: 0.0025 4.7395, 0.01 4.6394, 0.04 diverged\n" in text
    assert "short trials" not in report([row("a")])


def test_the_smallest_size_within_one_percent_of_the_best_is_told():
    losses = {1.0: 4.0, 0.9: 3.99, 0.75: 3.9998, 0.5: 4.04}
    shrink = [{"fraction": f, "params": int(1000 * f), "test_loss": loss} for f, loss in losses.items()]
    text = report([row("a")], shrink=shrink)
    # 1 % more perplexity than at 3.99 is at 3.99 + log(1.01) = 3.99995
    assert "within 1 % of the best perplexity has 750 parameters" in text
    assert "| 50%    | 500          | 4.0400      | +4.08%       |" in text  # exp(0.04) - 1


def test_the_card_says_what_is_known_and_leaves_out_what_is_not():
    best = row("a", ranks=RANKS, alphas=ALPHAS, trainable_parameters=10, test_loss=3.5)
    use = Use("org/base", "abc", "/runs/x/best_adapter", uniform=False, seen="not yet")
    text = card(best, assess([best]), RunInfo("now", model='a "b"', dataset="texts", train_examples=8), use)
    assert yaml.safe_load(text.split("---")[1]) == {"library_name": "peft", "base_model": 'a "b"', "tags": ["lora"]}
    assert "**Loss on the test split:** 3.5000 nats per token (perplexity 33.12)" in text
    assert "Not confirmed: no verdict." in text
    assert "- **Loaded again:** not yet\n" in text
    assert "from_pretrained('org/base', revision='abc', dtype=torch.float32)" in text
    assert "folder = '/runs/x/best_adapter'" in text
    assert "--max-lora-rank" not in text
    assert "This is about" not in text
    wide = card(row("a", ranks={"a.0.b": 33}), assess([]), RunInfo("now"), replace(use, uniform=True))
    assert "vLLM takes that with `--max-lora-rank 64`." in wide
    info = RunInfo("now", base_dtype="bfloat16", coverage="adapted: 1 of 2 matrices; left out: 1 router")
    text = card(row("a", loss=None), assess([]), info, replace(use, revision=None))
    assert "from_pretrained('org/base', dtype=torch.bfloat16)" in text
    assert "\n\nThis is about what was adapted (1 of 2 matrices) and says nothing of what was left out.\n" in text
    assert "None" not in text


def test_kinds_of_evidence_are_compared_by_the_order_of_their_sites():
    # of three pairs of sites the second kind orders two as the first does and one not: (2 - 1) / 3
    evidence = {"gradient": {"a": 1.0, "b": 2.0, "c": 3.0}, "activation": {"c": 5.0, "a": 7.0, "b": 90.0}}
    text = report([row("a")], evidence=evidence)
    assert "| gradient   | +1.00      | -0.33        |" in text
    assert "Agreement of Evidence" not in report([row("a")])
    spectrum = {f"explained_variance/{k}": {"a": 1 / k} for k in (1, 2)}
    assert report([row("a")], evidence=evidence | spectrum) == text
    only_here = {"gradient": evidence["gradient"] | {"d": 0.5}}
    assert report([row("a")], evidence=evidence | only_here) == text, "a site of which only one kind says something"
    assert "Agreement of Evidence" not in report([row("a")], evidence={"a": {"x": 1.0}, "b": {"y": 1.0}})


def test_answer_and_verdict_come_first_then_the_seeds_sections_and_the_rest_and_rows_alone_begin_as_the_seed_does():
    config = {"baseline": {"learning_rate": 0.01}}
    history = ({"step": 1, "eval_loss": 4.5}, {"step": 2, "eval_loss": 4.0})
    whole = {"ranks": RANKS, "alphas": ALPHAS, "fan_in_fan_out": True}
    searched = [
        row(f"b{size}", trainable_parameters=size, config=config, history=history, **whole) for size in (500, 1000)
    ]
    rows = [*searched, row("broken", "empirical", None, error="loss nan")]
    for strategy, losses in (("baseline", (4.0, 4.1)), ("empirical", (3.9, 4.0))):
        rows += [
            row(f"{strategy}{seed}", strategy, phase="confirm", seed=seed, test_loss=loss, trainable_parameters=1000,
                **whole)
            for seed, loss in enumerate(losses)
        ]  # fmt: skip
    shrink = [{"fraction": 1.0, "params": 1000, "test_loss": 4.0}, {"fraction": 0.5, "params": 500, "test_loss": 4.2}]
    evidence = {"gradient": {"a": 1.0, "b": 2.0}, "activation": {"a": 1.0, "b": 2.0}}
    importance = {"baseline": {"learning_rate": 1.0}}
    info = RunInfo("now", importance=importance, evidence=evidence, shrink=shrink, command="tune.py")
    text = render(assess(rows), info, drawn(assess(rows), info))
    headings = re.findall("(?m)^## (.*)", text)
    rest = [
        "Winner", "Trials", "Trials and Cost", "Pareto Front", "What Mattered", "Ranks by Layer and Matrix",
        "Learning Curves", "Learning-Rate Sensitivity", "Shrinking the Winner", "Shrink Curve",
        "Agreement of Evidence", "Diverged and Failed", "How to Reproduce",
    ]  # fmt: skip
    assert headings == ["Answer", "Verdict", *SEED_SECTIONS, *rest]
    alone = render_rows(assess(rows), info, drawn(assess(rows), info))
    assert re.findall("(?m)^## (.*)", alone) == [*SEED_SECTIONS, "Verdict", "Differences to plain LoRA", *rest]


def test_a_picture_that_the_report_has_no_place_for_is_shown_all_the_same():
    other = Picture("other", "Another Picture", "What it shows", "How to read it", heatmaps({"ranks": RANKS}))
    assert "## Another Picture" in render(assess([row("a")]), RunInfo("now"), [other])


@pytest.mark.parametrize(("text", "is_in_the_way"), [("![Loss](figures/loss.svg)", True), ("No pictures.", False)])
def test_a_report_replaces_no_pictures_of_another(tmp_path, monkeypatch, capsys, text, is_in_the_way):
    (tmp_path / "first.md").write_text(text)
    (tmp_path / "first.html").touch()
    monkeypatch.setattr(publish.pictures, "drawn", lambda assessment, info: [])
    output = tmp_path / "second.md"
    monkeypatch.setattr(sys, "argv", ["analysis", "--rows", str(SEED / "rows.csv"), "--output", str(output)])
    assert main() == (2 if is_in_the_way else 0)
    assert output.exists() is not is_in_the_way
    assert ("first.md beside it is a report, too" in capsys.readouterr().err) is is_in_the_way
    again = str(tmp_path / "first.md")
    monkeypatch.setattr(sys, "argv", ["analysis", "--rows", str(SEED / "rows.csv"), "--output", again])
    (tmp_path / "second.md").unlink(missing_ok=True)
    assert main() == 0, "the same report again replaces its own"
