"""The driver is killed again and again, and in the end nobody could tell."""

import dataclasses
import itertools
import json
import random
import time
from collections import Counter

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from analysis.results.rows import read_rows
from tests.fakes import mlflow, ray_tune
from trainables.training import checkpoint
from tuning.cli import main
from tuning.state.record import Record
from tuning.tracking.mlflow_client import EXPERIMENT, TRIAL_TAG

STEPS, INTERVAL = 12, 3
FLAGS = (
    "--strategies", "baseline", "--strategies", "linear_decay", "--strategies", "attention_heavy",
    "--max-concurrent-trials", 1, "--seed", 5, "--batch-size", 4, "--reports", STEPS // INTERVAL,
)  # fmt: skip
TIMED = {"training_time_seconds", "restarts"}


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory):
    """A function that returns the rows of a search that nobody kills, as one without Ray has them."""

    def run(flags):
        runs = tmp_path_factory.mktemp("unbroken")
        with pytest.MonkeyPatch.context() as patch:
            ray_tune.install(patch)
            ray_tune.draw_nothing(patch)
            mlflow.install(patch)
            every = (*small, *flags, "--runs-dir", runs, "--name", "whole")
            assert main([str(flag) for flag in every]) == 0
        return _untimed(read_rows(runs / "whole" / "rows.jsonl"))

    return run


@pytest.mark.process
@pytest.mark.parametrize(
    ("kills", "trials", "seeds"),
    [
        pytest.param(3, 6, 0, marks=pytest.mark.timeout(900)),
        pytest.param(20, 30, 1, marks=[pytest.mark.thorough, pytest.mark.timeout(2400)]),
    ],
)
def test_a_search_that_is_killed_at_random_moments_ends_as_an_unbroken_one(
    tree, unbroken, reported, kills, trials, seeds
):
    flags, random_, done, kept = (*FLAGS, "--num-samples", trials, "--confirm-seeds", seeds), random.Random(20), 0, []
    tree.step_seconds = 0.05
    process = tree.new("cut", *flags)
    while done < kills:
        before = _lines(tree, "rows.jsonl")
        _run_a_while(tree, process, random_, far=done % 10 == 0)
        assert process.poll() is None, "the search ended before it was killed often enough"
        tree.kill(process)
        done += 1
        kept.append((reported(tree.runs / "cut"), _checkpoints(tree)))
        assert _lines(tree, "rows.jsonl")[: len(before)] == before
        begun = (tree.runs / "cut").exists()
        process = tree.start("--resume", "cut") if begun else tree.new("cut", *flags)
    status, _, errors = tree.done(process)
    assert status == 0, errors
    _assert_as_unbroken(tree, unbroken(flags), trials)
    _assert_each_checkpoint_was_used(reported(tree.runs / "cut"), kept)


def _run_a_while(tree, process, random_, far):
    """Wait for some progress and a little, or, every fourth time, for some seconds whatever happens.

    If it is to be ``far``, then until a trial has made its last report but one.
    """
    if far:
        tree.wait_for(lambda: _last_step(tree) == STEPS - INTERVAL or process.poll() is not None)
        return
    if random_.random() < 0.25:
        time.sleep(random_.uniform(0, 7.5))
        return
    wanted = len(_lines(tree, "record.jsonl")) + random_.randint(1, 4)
    tree.wait_for(lambda: len(_lines(tree, "record.jsonl")) >= wanted or process.poll() is not None)
    time.sleep(random_.uniform(0, 0.3))


def _lines(tree, name):
    path = tree.runs / "cut" / name
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def _last_step(tree):
    """Return the step of the report that was noted last; None if something else was."""
    lines = _lines(tree, "record.jsonl")
    return json.loads(lines[-1]).get("report", {}).get("step") if lines else None


def _checkpoints(tree):
    """Return trial id -> the furthest step at which it is whole on disk."""
    furthest = {}
    for trial_id, config in Record(tree.runs / "cut").configs.items():
        for folder in (tree.runs / "cut" / "ray").glob(f"*/{config.name}/checkpoint_*/session"):
            if (progress := checkpoint.progress_of(folder)) is not None:
                furthest[trial_id] = max(progress.step, furthest.get(trial_id, 0))
    return furthest


def _assert_each_checkpoint_was_used(reported, kept):
    """After a kill, the first report of a trial that goes on is not from before its checkpoint."""
    used = [0]
    for before, checkpoints in kept:
        for trial_id, step in checkpoints.items():
            if later := reported[trial_id][len(before[trial_id]) :]:
                assert later[0] >= step, (trial_id, step, later)
                used.append(step)
    assert max(used) >= 2 * INTERVAL, "a trial that began from the start would report INTERVAL, and nobody would see it"


def _assert_as_unbroken(tree, whole, trials):
    rows = _untimed(read_rows(tree.runs / "cut" / "rows.jsonl"))
    assert rows == whole
    raw = [json.loads(line) for line in _lines(tree, "rows.jsonl")]
    assert max(Counter((row["trial_id"], row["phase"]) for row in raw).values()) == 1, "a trial ended twice"
    assert sum(row["phase"] == "search" for row in raw) == trials
    _assert_no_more_than_an_interval_was_lost(tree)
    _assert_optuna_is_true(tree, rows)
    _assert_mlflow_is_true(tree, rows)


def _untimed(rows):
    facts = [{name: value for name, value in dataclasses.asdict(row).items() if name not in TIMED} for row in rows]
    for row in facts:
        row["history"] = [{**report, "seconds": None} for report in row["history"]]
    return facts


def _assert_no_more_than_an_interval_was_lost(tree):
    steps = {}
    for line in _lines(tree, "record.jsonl"):
        event = json.loads(line)
        if event["event"] == "reported":
            steps.setdefault(event["trial_id"], []).append(event["report"]["step"])
    assert steps
    for trial_id, reported in steps.items():
        # a kill between a report and its checkpoint takes the trial back to the checkpoint before
        lost = [earlier - later for earlier, later in itertools.pairwise(reported) if later < earlier]
        assert set(lost) <= {INTERVAL}, (trial_id, reported)


def _assert_optuna_is_true(tree, rows):
    journal = optuna.storages.journal.JournalFileBackend(str(tree.runs / "cut" / "optuna.journal"))
    study = optuna.load_study(study_name="cut", storage=optuna.storages.JournalStorage(journal))
    told = Counter(trial.user_attrs["trial_id"] for trial in study.trials if "trial_id" in trial.user_attrs)
    assert told == Counter(row["trial_id"] for row in rows if row["phase"] == "search")
    assert not [trial for trial in study.trials if trial.state in {TrialState.RUNNING, TrialState.WAITING}]


def _assert_mlflow_is_true(tree, rows):
    client = MlflowClient(tracking_uri=f"sqlite:///{tree.runs}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert not [run for run in runs if run.info.status == "RUNNING"]
    search_id = json.loads((tree.runs / "cut" / "facts.json").read_text())["search_id"]
    mine = [run for run in runs if run.data.tags[TRIAL_TAG].split("/")[0] == search_id]
    names = [row["experiment_name"] for row in rows]
    groups = {row["phase"] for row in rows} - {"search"}
    assert Counter(run.info.run_name for run in mine) == Counter([*names, *groups, "cut"])
