import contextlib
import csv
import dataclasses
import json
import math
import pickle
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pytest
import ray
from optuna.trial import TrialState
from ray.tune.logger import JsonLoggerCallback

from analysis.rows import FIELDS, read_rows
from strategies.official import OFFICIAL
from trainables.trainable import LoraTrainable
from tuning import preflight, search
from tuning.cli import main, resolve_plan
from tuning.harvest import Harvest
from tuning.hosting import hosts_for
from tuning.ray_connection import ray_for
from tuning.record import Record
from tuning.stop import Stop

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


def test_the_best_adapter_loads_with_plain_peft_and_gives_the_same_loss(finished, tiny_gpt2, small):
    """In a process that imports nothing of ours; the examples are handed over as token ids."""
    plan = resolve_plan(None, _given(small))
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


def _given(small):
    return {
        flag[2:].replace("-", "_"): (int(value) if value.isdigit() else value)
        for flag, value in zip(small[::2], small[1::2], strict=True)
    }


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


def test_a_search_where_all_diverge_ends_with_a_report_and_status_1(tune, runs):
    done = tune("--num-samples", 4, "--scale", "1e30", "--runs-dir", runs, "--name", "diverged")
    assert done.returncode == 1, done.stderr
    rows = read_rows(runs / "diverged" / "rows.jsonl")
    assert {row.status for row in rows} == {"diverged"}
    for row in rows:
        assert row.final_eval_loss is row.test_loss is None
        assert all(word in row.error for word in ("learning rate", "1e+30", "float32", "at step"))
    report = (runs / "diverged" / "report.md").read_text()
    assert "no trial finished with a loss, so none is best" in report
    assert not (runs / "diverged" / "best_adapter").exists()


def _raising_trainable():
    class Raising(LoraTrainable):  # local, so that it travels to the trial's process by value
        def step(self):
            raise RuntimeError("no trial gets past this")

    return Raising


class Trace:
    """A pickle that leaves a trace where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_trials_that_all_fail_leave_a_report_and_status_1_and_none_of_their_pickles_is_loaded(
    small, four, runs, tmp_path, monkeypatch, capfd
):
    planted = []

    class Planting(JsonLoggerCallback):
        def on_experiment_end(self, trials, **info):  # what Ray has written is in the run folder by now
            planted.extend((runs / "failed" / "ray").glob("*/*/error.pkl"))
            for path in planted:
                path.write_bytes(pickle.dumps(Trace(tmp_path / "trace")))

    monkeypatch.setattr(search, "JsonLoggerCallback", Planting)
    monkeypatch.setattr(search, "LoraTrainable", _raising_trainable())
    flags = ["--num-samples", "4", "--isolation", "process", "--max-failures", "0", "--name", "failed"]
    assert main([*small, *four, *flags, "--runs-dir", str(runs)]) == 1, capfd.readouterr().err
    rows = read_rows(runs / "failed" / "rows.jsonl")
    assert [row.status for row in rows] == ["failed"] * 4
    assert {row.error for row in rows} == {"RuntimeError: no trial gets past this"}
    assert len(planted) == 4
    assert not (tmp_path / "trace").exists()
    assert Record(runs / "failed").exit_status == 1
    report = (runs / "failed" / "report.md").read_text()
    assert "no trial finished with a loss, so none is best" in report
    assert all(f"| {row.experiment_name} " in report for row in rows)
    assert not (runs / "failed" / "best_adapter").exists()


def test_a_trial_whose_process_is_killed_is_a_failed_row_and_status_3(small, runs):
    done, errors = _search_with_a_kill(
        small, runs, "killed", "Trainable", "--max-failures", "0", "--isolation", "process"
    )
    assert done == 3, errors
    rows = read_rows(runs / "killed" / "rows.jsonl")
    assert sorted(Counter(row.status for row in rows).items()) == [("failed", 1), ("finished", 3)]
    (failed,) = [row for row in rows if row.status == "failed"]
    assert failed.error
    assert failed.final_eval_loss is None


def test_packed_trials_survive_the_death_of_their_host(small, runs, around_restarts):
    done, errors = _search_with_a_kill(small, runs, "host", "Host", "--cpus-per-trial", "2")
    assert done == 0, errors
    rows = read_rows(runs / "host" / "rows.jsonl")
    assert [row.status for row in rows] == ["finished"] * 4
    assert all([report["step"] for report in row.history] == [100, 200, 300, 400] for row in rows)
    ((before, after),) = around_restarts(runs / "host")
    assert after >= before >= 200, "it went on from a checkpoint"


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


def _search_with_a_kill(small, runs, name, victim, *flags):
    """Search four trials one by one, kill ``victim`` after two reports of the first, and return (status, errors)."""
    command = [sys.executable, "tune.py", *small, "--num-samples", "4", "--scheduler", "fifo", "--epochs", "200",
               "--max-concurrent-trials", "1", "--runs-dir", str(runs), "--name", name, *flags]  # fmt: skip
    driver = psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        results = (runs / name).glob
        seen = {}  # while a host trains, Ray gives it the trial's name

        def time_to_kill():
            seen.update({process.pid: process for process in _children(driver, victim)})
            reported = any(path.read_bytes().count(b"\n") >= 2 for path in results("ray/*/*/result.json"))
            return seen and reported

        _wait_for(time_to_kill)
        for process in seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    except TimeoutError:
        driver.kill()
        raise
    finally:
        _, errors = driver.communicate(timeout=200)
    return driver.returncode, errors


def _children(driver, name):
    """Ray's workers that are busy with ``name``; Ray puts that into their titles."""
    found = []
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = "".join(process.cmdline())
            found += [process] if title.startswith("ray::") and name in title else []
    return found


def _wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.02)


class Counting:
    """Counts trials that run at the same time."""

    def __init__(self):
        self.running, self.most = set(), 0

    def started(self, trial_id, name, config):
        self.running.add(trial_id)
        self.most = max(self.most, len(self.running))

    def reported(self, trial_id, report):
        assert trial_id in self.running

    def ended(self, row):
        self.running.discard(row.trial_id)


def _slow_trainable():
    class Slow(LoraTrainable):  # local, so that it travels to the trial's process by value
        def step(self):
            time.sleep(1.5)
            return super().step()

    return Slow


def test_four_trials_share_a_gpu_in_quarters_and_a_fifth_waits(small, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "LoraTrainable", _slow_trainable())
    counting = Counting()
    plan = resolve_plan(None, {
        **_given(small), "num_samples": 8, "gpus_per_trial": 0.25, "scheduler": "fifo", "cpus_per_trial": 0.5,
        "runs_dir": str(tmp_path), "name": "quarters", "strategies": ("baseline", "linear_decay"),
        "isolation": "process",
    })  # fmt: skip
    ray.init(
        address="local", num_gpus=1, num_cpus=8, log_to_driver=False, logging_level="ERROR", include_dashboard=False
    )
    try:
        with ray_for(plan):
            plan.run_dir.mkdir()
            known = preflight.check(plan)
            known = dataclasses.replace(known, workload=dataclasses.replace(known.workload, device="cpu"))
            record = Record(plan.run_dir)
            with hosts_for(plan, known.workload) as hosts:
                trainable = search.trainable(plan, hosts, known.workload, record)
                searcher = search.searcher(plan, known, record)
                harvest = Harvest(record, Stop(plan.run_dir, 0), [counting])
                search.run(plan, trainable, searcher, plan.trials, harvest, "search")
    finally:
        ray.shutdown()
    assert [row.status for row in record.rows.values()] == ["finished"] * 8
    assert counting.most == 4
