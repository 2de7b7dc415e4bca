import csv
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
import ray
from optuna.trial import TrialState

from analysis.rows import FIELDS, read_rows
from strategies.official import OFFICIAL
from tuning.cli import resolve_plan

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_a_search_leaves_one_true_row_per_trial(finished):
    rows = read_rows(finished[1] / "rows.jsonl")
    assert Counter(row.strategy for row in rows) == dict.fromkeys(
        ("baseline", "linear_decay", "attention_heavy", "empirical"), 2
    )
    assert {row.status for row in rows} <= {"finished", "stopped"}
    for row in rows:
        assert row.phase == "search"
        assert row.trainable_parameters <= 1024
        assert sum(row.ranks.values()) > 0
        assert math.exp(row.final_eval_loss) == pytest.approx(row.final_perplexity)
        assert (row.test_loss is not None) == (row.status == "finished")
        assert row.history[-1]["eval_loss"] == row.final_eval_loss
        assert row.error is None


def test_rows_are_written_twice_with_the_same_content(finished):
    assert read_rows(finished[1] / "rows.csv") == read_rows(finished[1] / "rows.jsonl")
    with (finished[1] / "rows.csv").open() as file:
        assert next(csv.reader(file)) == list(FIELDS)


def test_the_best_trial_of_every_strategy_finished(finished):
    done = {row.strategy for row in read_rows(finished[1] / "rows.jsonl") if row.status == "finished"}
    assert len(done) == 4


def test_plain_lora_at_the_default_learning_rate_is_tried_first(finished):
    row = read_rows(finished[1] / "rows.jsonl")[0]
    assert row.strategy == "baseline"
    assert row.config["baseline"] == {"learning_rate": pytest.approx(0.01)}
    assert set(row.ranks.values()) == {2}


def test_the_plan_is_saved_with_what_was_found_out(finished):
    plan = resolve_plan(str(finished[1] / "plan.json"), {})
    assert (plan.num_samples, plan.name, len(plan.corpus_sha256)) == (8, "first", 64)
    facts = json.loads((finished[1] / "facts.json").read_text())
    assert facts["budget_params"] == 1024
    assert "--num-samples 8" in facts["command"]
    assert facts["versions"]["ray"] == ray.__version__
    assert f"- **Engine:** {facts['engine']}\n" in (finished[1] / "report.md").read_text()


def test_the_journal_has_every_trial_and_its_true_end(finished):
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(finished[1] / "optuna.journal"))
    )
    study = optuna.load_study(study_name="first", storage=storage)
    ends = {trial.user_attrs["trial_id"]: trial for trial in study.trials if "trial_id" in trial.user_attrs}
    expected = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for row in read_rows(finished[1] / "rows.jsonl"):
        assert ends[row.trial_id].state == expected[row.status]
        if row.status == "finished":
            assert ends[row.trial_id].value == row.final_eval_loss
    assert not [trial for trial in study.trials if trial.state in {TrialState.RUNNING, TrialState.WAITING}]


def test_plain_lines_tell_the_progress_and_the_end_names_every_view(finished):
    out = finished[0].stdout
    assert "8/8" in out
    assert "\x1b" not in out
    for text in ("report.md", "mlflow ui --backend-store-uri sqlite:////", "optuna-dashboard", "Ray dashboard"):
        assert text in out
    assert finished[0].stderr == ""


def test_the_best_adapter_loads_with_plain_peft_and_gives_the_same_loss(finished, tiny_gpt2):
    """In a process that imports nothing of ours; the examples are handed over as token ids."""
    plan = resolve_plan(str(finished[1] / "plan.json"), {})
    from trainables.data import load_splits

    examples = [example.input_ids for example in load_splits(plan.data_source(), plan.model).validation]
    (finished[1] / "examples.json").write_text(json.dumps(examples))
    code = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, examples = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
total = count = 0
for ids in json.load(open(examples)):
    ids = torch.tensor([ids])
    with torch.no_grad():
        total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    count += ids.shape[1] - 1
assert not {"tuning", "trainables", "strategies", "analysis"} & sys.modules.keys()
print(total / count)
"""
    arguments = [str(tiny_gpt2), str(finished[1] / "best_adapter"), str(finished[1] / "examples.json")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd="/")
    best = min(r.final_eval_loss for r in read_rows(finished[1] / "rows.jsonl") if r.status == "finished")
    assert float(done.stdout) == pytest.approx(best, abs=1e-5)


def test_a_seed_repeats_a_search_row_by_row_and_evidence_is_measured_once(finished, tune, runs, four):
    (cached,) = (runs / ".evidence").iterdir()
    measured = cached.stat().st_mtime_ns
    done = tune("--num-samples", 8, "--max-concurrent-trials", 1, "--runs-dir", runs, "--name", "again", *four)
    assert done.returncode == 0, done.stderr
    timed = {"trial_id", "experiment_name", "training_time_seconds", "history"}

    def known(folder):
        rows = read_rows(folder / "rows.jsonl")
        return [{name: getattr(row, name) for name in FIELDS if name not in timed} for row in rows]

    assert known(runs / "again") == known(finished[1])
    assert cached.stat().st_mtime_ns == measured


def test_the_official_experiments_are_five_trials_under_their_seed_names(tune, runs):
    done = tune("--official", "--runs-dir", runs, "--name", "official")
    assert done.returncode == 0, done.stderr
    rows = {row.experiment_name: row for row in read_rows(runs / "official" / "rows.jsonl")}
    assert set(rows) == {item.name for item in OFFICIAL}
    assert {row.status for row in rows.values()} == {"finished"}
    report = (runs / "official" / "report.md").read_text()
    assert all(f"| {name} " in report for name in rows)
    assert "## Pareto Front" in report


def test_packed_and_solo_trials_of_one_configuration_have_the_same_losses(tune, runs):
    losses = {}
    for isolation in ("process", "packed"):
        done = tune("--official", "--isolation", isolation, "--runs-dir", runs, "--name", isolation)
        assert done.returncode == 0, done.stderr
        rows = sorted(read_rows(runs / isolation / "rows.jsonl"), key=lambda row: row.trial_id)
        losses[isolation] = [value for row in rows for value in (row.final_eval_loss, row.test_loss)]
    assert losses["packed"] == pytest.approx(losses["process"], abs=1e-5)


def test_a_packed_trials_process_does_not_load_torch():
    code = (
        "import sys, trainables.proxy, trainables.host; assert not {'torch', 'peft', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
