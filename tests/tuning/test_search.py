"""What a search leaves, in its folder and on the terminal."""

import csv
import inspect
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
import ray
from optuna.trial import TrialState

from analysis.report.report import render
from analysis.results.rows import FIELDS, read_rows
from analysis.results.run_info import RunInfo
from analysis.stats.assessment import assess
from strategies.official import OFFICIAL
from tuning.cli import main, resolve_plan

ROOT = Path(__file__).parents[2]
SIX = {"baseline", "linear_decay", "attention_heavy", "empirical", "eva", "adalora"}


@pytest.fixture(scope="module")
def rows(finished):
    """Of the search itself, without the runs that confirm it."""
    return [row for row in read_rows(finished.folder / "rows.jsonl") if row.phase == "search"]


@pytest.mark.process
def test_a_search_leaves_one_true_row_per_trial(rows):
    assert Counter(row.strategy for row in rows) == dict.fromkeys(SIX, 2)
    assert {row.status for row in rows} == {"finished", "stopped"}
    for row in rows:
        assert row.phase == "search"
        # AdaLoRA begins above its budget, and is within it at the end
        assert row.trainable_parameters <= 1024 or (row.strategy, row.status) == ("adalora", "stopped")
        assert sum(row.ranks.values()) > 0
        assert math.exp(row.final_eval_loss) == pytest.approx(row.final_perplexity)
        assert (row.test_loss is not None) == (row.status == "finished")
        assert row.history[-1]["eval_loss"] == row.final_eval_loss
        assert row.error is None


@pytest.mark.process
def test_rows_are_written_twice_with_the_same_content(finished):
    assert read_rows(finished.folder / "rows.csv") == read_rows(finished.folder / "rows.jsonl")
    with (finished.folder / "rows.csv").open() as file:
        assert next(csv.reader(file)) == list(FIELDS)


@pytest.mark.process
def test_the_best_trial_of_every_strategy_finished(rows):
    assert {row.strategy for row in rows if row.status == "finished"} == SIX


@pytest.mark.process
def test_plain_lora_at_the_default_learning_rate_is_tried_first(rows):
    row = rows[0]
    assert row.strategy == "baseline"
    assert row.config["baseline"] == {"learning_rate": pytest.approx(0.01)}
    assert set(row.ranks.values()) == {2}


@pytest.mark.process
def test_the_plan_is_saved_with_what_was_found_out(finished):
    plan = resolve_plan(str(finished.folder / "plan.json"), {})
    assert (plan.num_samples, plan.name, len(plan.corpus_sha256)) == (12, "first", 64)
    facts = json.loads((finished.folder / "facts.json").read_text())
    assert facts["budget_params"] == 1024
    assert "--num-samples 12" in facts["command"]
    assert facts["versions"]["ray"] == ray.__version__
    assert f"- **Engine:** {facts['engine']}\n" in (finished.folder / "report.md").read_text()


@pytest.mark.process
def test_the_journal_has_every_trial_and_its_true_end(finished, rows):
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(finished.folder / "optuna.journal"))
    )
    study = optuna.load_study(study_name="first", storage=storage)
    ends = {trial.user_attrs["trial_id"]: trial for trial in study.trials if "trial_id" in trial.user_attrs}
    expected = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert ends.keys() == {row.trial_id for row in rows}
    for row in rows:
        assert ends[row.trial_id].state == expected[row.status]
        if row.status == "finished":
            assert ends[row.trial_id].value == row.final_eval_loss
    assert not [trial for trial in study.trials if trial.state in {TrialState.RUNNING, TrialState.WAITING}]


@pytest.mark.process
def test_plain_lines_tell_the_progress_and_the_end_names_every_view(finished):
    out = finished.done.stdout
    assert "12/12" in out
    assert "\x1b" not in out
    for text in ("report.md", "mlflow ui --backend-store-uri sqlite:////", "optuna-dashboard", "Ray dashboard"):
        assert text in out
    assert finished.done.stderr == ""


def loss_of(base, adapter, examples):
    """The mean loss per token of token ids, by libraries alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    total = count = 0
    for ids in examples:
        ids = torch.tensor([ids])
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


@pytest.fixture(scope="module")
def winner(finished, tiny_gpt2):
    """(base, folder of the best adapter, validation examples as token ids, loss that was reported)."""
    from trainables.data.splits import load_splits

    plan = resolve_plan(str(finished.folder / "plan.json"), {})
    examples = [example.input_ids for example in load_splits(plan.data_source(), plan.model).validation]
    report = (finished.folder / "report.md").read_text()
    (used,) = [
        row
        for row in read_rows(finished.folder / "rows.jsonl")
        if f"`{row.experiment_name}` is the run to use" in report
    ]
    return str(tiny_gpt2), str(finished.folder / "best_adapter"), examples, used.final_eval_loss


@pytest.mark.process
def test_the_best_adapter_loads_with_plain_peft_and_gives_the_same_loss(winner):
    *given, reported = winner
    assert loss_of(*given) == pytest.approx(reported, abs=1e-5)


@pytest.mark.process
@pytest.mark.thorough
def test_it_does_so_in_a_process_that_imports_nothing_of_ours(winner):
    *given, reported = winner
    code = (
        f"import json, sys\n{inspect.getsource(loss_of)}\nprint(loss_of(*json.load(sys.stdin)))\n"
        "assert not {'tuning', 'trainables', 'strategies', 'analysis'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(given), capture_output=True, text=True, check=True, cwd="/"
    )
    assert float(done.stdout) == pytest.approx(reported, abs=1e-5)


TIMED = {"trial_id", "experiment_name", "training_time_seconds", "history"}


def untimed(folder):
    return [
        {name: getattr(row, name) for name in FIELDS if name not in TIMED} for row in read_rows(folder / "rows.jsonl")
    ]


@pytest.mark.search
def test_a_seed_repeats_a_search_row_by_row_and_evidence_is_measured_once(simulated, small, four, tmp_path):
    flags = [*small, *four, "--num-samples", "8", "--confirm-seeds", "1", "--max-concurrent-trials", "1",
             "--runs-dir", str(tmp_path)]  # fmt: skip
    assert main([*flags, "--name", "first"]) == 0
    measured = {path: path.stat().st_mtime_ns for path in (tmp_path / ".evidence").iterdir()}
    assert len(measured) == 2  # what can be adapted, and the importance of that
    assert main([*flags, "--name", "again"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".evidence").iterdir()} == measured
    assert len(untimed(tmp_path / "first")) > 8
    assert untimed(tmp_path / "first") == untimed(tmp_path / "again")
    assert main([*flags, "--name", "another", "--seed", "1"]) == 0
    assert untimed(tmp_path / "first") != untimed(tmp_path / "another")


@pytest.mark.search
def test_a_report_made_anew_of_a_run_says_what_that_at_its_end_said(simulated, small, four, tmp_path):
    flags = [*small, *four, "--num-samples", "4", "--confirm-seeds", "2", "--margin", "0.02"]
    assert main([*flags, "--runs-dir", str(tmp_path), "--name", "told"]) == 0
    report = (tmp_path / "told" / "report.md").read_text()
    generated = re.search(r"Generated:\*\* (.*)", report).group(1)
    info = RunInfo.of_run(tmp_path / "told", generated)
    assert info.margin == 0.02
    assert info.evidence
    assert (
        render(assess(read_rows(tmp_path / "told" / "rows.jsonl"), info.margin, info.containing_plain), info) == report
    )


@pytest.mark.process
@pytest.mark.thorough
def test_so_it_does_where_all_is_real(finished, tune, six, tmp_path):
    cached = Path(shutil.copytree(finished.folder.parent / ".evidence", tmp_path / ".evidence"))
    measured = {path: path.stat().st_mtime_ns for path in cached.iterdir()}
    done = tune(*six, "--runs-dir", tmp_path, "--name", "again")
    assert done.returncode == 0, done.stderr
    assert untimed(tmp_path / "again") == untimed(finished.folder)
    assert {path: path.stat().st_mtime_ns for path in cached.iterdir()} == measured


def check_official(folder):
    rows = {row.experiment_name: row for row in read_rows(folder / "rows.jsonl")}
    assert set(rows) == {item.name for item in OFFICIAL}
    assert {row.status for row in rows.values()} == {"finished"}
    report = (folder / "report.md").read_text()
    assert all(f"| {name} " in report for name in rows)
    assert "## Pareto Front" in report


@pytest.mark.search
def test_the_official_experiments_are_five_trials_under_their_seed_names(drawing, small, tmp_path):
    assert main([*small, "--official", "--runs-dir", str(tmp_path), "--name", "official"]) == 0
    check_official(tmp_path / "official")


@pytest.mark.search
@pytest.mark.thorough
def test_packed_and_solo_trials_of_one_configuration_have_the_same_losses(shared_ray, small, tmp_path):
    losses = {}
    for isolation in ("process", "packed"):
        named = ["--isolation", isolation, "--runs-dir", str(tmp_path), "--name", isolation]
        assert main([*small, "--official", *named]) == 0
        check_official(tmp_path / isolation)
        rows = sorted(read_rows(tmp_path / isolation / "rows.jsonl"), key=lambda row: row.trial_id)
        losses[isolation] = [value for row in rows for value in (row.final_eval_loss, row.test_loss)]
    assert losses["packed"] == pytest.approx(losses["process"], abs=1e-5)


REPORTS = ("matplotlib", "scipy.stats", "mlflow", "datasets")
"""What only a report or a data set needs."""


@pytest.mark.process
@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        (("tuning.pipeline",), ("torch", "transformers", "peft", "bitsandbytes", *REPORTS)),
        (("tuning.preflight.checking",), ("torch", "ray.tune", "pandas", "optuna", *REPORTS)),
        (("trainables.actors.packed_trainable", "trainables.actors.host"), ("torch", "peft", "transformers")),
    ],
)
def test_a_process_waits_for_no_library_that_it_does_not_need_yet(modules, unneeded):
    """The driver before its first trial, a host that checks a plan, and a packed trial's."""
    code = f"import sys, {', '.join(modules)}; print({{*{unneeded}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


COMMAND = """
import sys
from tuning.callbacks.terminal import Terminal
from tuning.command import run
begun = Terminal.started
def started(terminal, config):
    print("loaded:", {"torch", "transformers", "peft"} & {*sys.modules}, flush=True)
    begun(terminal, config)
Terminal.started = started
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.process
@pytest.mark.thorough  # a whole search; what its modules import is tested above
def test_the_process_of_a_search_has_imported_no_torch_when_its_first_trial_begins(small, tmp_path):
    """What is measured for ``empirical`` it has read from its host, and from a file."""
    flags = [*small, "--strategies", "empirical", "--num-samples", "1", "--runs-dir", str(tmp_path), "--name", "light"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *flags], capture_output=True, text=True, check=False, cwd=ROOT, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "loaded: set()" in done.stdout.splitlines()
