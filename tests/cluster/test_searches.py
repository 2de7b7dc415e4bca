"""Searches on a cluster of two real nodes, with an MLflow server on PostgreSQL: jobs, two at once, and a killed one."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from analysis.results.rows import read_rows
from tuning.tracking.mlflow_client import EXPERIMENT

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def submitted(mlflow, cluster, plan, tmp_path_factory):
    """A function that submits a search as a job, and returns its run folder once it has ended."""

    def submit(*flags):
        shared = tmp_path_factory.mktemp("shared")
        places = ("--ray-address", "auto", "--runs-dir", shared, "--mlflow-uri", mlflow)
        done = cluster.submit(sys.executable, "tune.py", *places, *plan, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        return shared / "search"

    return submit


@pytest.fixture(scope="module")
def brief(submitted):
    """The run folder of a job that confirms nothing."""
    return submitted("--confirm-seeds", "0")


@pytest.fixture(scope="module")
def job(submitted):
    """The run folder of a job."""
    return submitted()


def outcomes(run_dir):
    """What depends on neither time nor place."""
    return {
        (row.phase, row.strategy, row.seed): (
            row.status, row.ranks, row.config[row.strategy],
            pytest.approx(row.final_eval_loss, abs=1e-5), pytest.approx(row.test_loss, abs=1e-5),
        )
        for row in read_rows(run_dir / "rows.jsonl")
    }  # fmt: skip


WORD = r"[+−]?\w+(?:[./]\w+)*%?"
NUMBER = r" +(?:[\d.]+|NaN)"
TIMES = [r"\*\*Generated:\*\* .*", r"### Training Time Seconds\n(.+\n)+", r"\b\d+(\.\d)? ?s\b",
         rf"(?m)(?<=\S)({NUMBER}){{2}}$"]  # fmt: skip


def told(run_dir):
    """The report's words, line by line, without times, places, the command, and the commit, which a job does not have.

    A job runs in a copy of the code without its history; the digest among the versions is the same for the same code.
    Trials end in any order, and so may the lines of tables and the words of lists stand.
    """
    text = (run_dir / "report.md").read_text().replace(str(run_dir.parent), "")
    for what in (*TIMES, r"(?m)^python tune\.py .*", r"(?m)^- \*\*Code:\*\* .*\n"):
        text = re.sub(what, "", text)
    return sorted(sorted(re.findall(WORD, line)) for line in text.splitlines())


def mlflow_runs(address, run_dir):
    """Return (parents, their group and trials) of the search whose folder this is."""
    client = MlflowClient(tracking_uri=address)
    search = json.loads((run_dir / "facts.json").read_text())["search_id"]
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], max_results=1000)
    of_search = [run for run in runs if run.data.tags["rank_search.trial_id"].startswith(f"{search}/")]
    return [run for run in of_search if "mlflow.parentRunId" not in run.data.tags], [
        run for run in of_search if "mlflow.parentRunId" in run.data.tags
    ]


@pytest.mark.smoke
def test_a_jobs_artifacts_reach_the_shared_folder(brief):
    for name in ("report.html", "report.md", "rows.csv", "plan.json", "best_adapter/adapter_model.safetensors"):
        assert (brief / name).is_file()


def test_the_report_is_that_of_a_local_run(job, plan, tmp_path):
    command = [sys.executable, "tune.py", "--runs-dir", str(tmp_path), *plan]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    local = tmp_path / "search"
    assert outcomes(job) == outcomes(local)
    assert told(job) == told(local)


@pytest.mark.smoke
def test_mlflow_on_postgresql_has_the_search_with_its_trials(mlflow, brief):
    rows = read_rows(brief / "rows.jsonl")
    (parent,), below = mlflow_runs(mlflow, brief)
    assert parent.info.status == "FINISHED"
    assert {run.info.run_name for run in below} == {row.experiment_name for row in rows}
    assert len(rows) == 2


def test_it_has_what_confirms_a_search_too(mlflow, job):
    rows = read_rows(job / "rows.jsonl")
    _, below = mlflow_runs(mlflow, job)
    assert {run.info.run_name for run in below} == {row.experiment_name for row in rows} | {"confirm"}


def half_done(results):
    """Return trial -> the lines of its reports, of those that have reported and not ended."""
    told = {path.parent.name: path.read_text() for path in results.glob("*/*/result.json")}
    return {name: lines for name, lines in told.items() if lines.endswith("\n") and '"done": true' not in lines}


def test_a_jobs_trials_run_on_both_nodes_and_a_stopped_one_keeps_them_and_says_how_to_go_on(cluster, plan, tmp_path):
    flags = (*cluster.LONG, "--epochs", "1000")
    command = [sys.executable, "tune.py", "--ray-address", "auto", "--runs-dir", tmp_path, *plan, *flags]
    submitted = cluster.submit(*command, flags=("--no-wait", "--submission-id", "stopped"))
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    results = tmp_path / "search" / "ray"
    both = {cluster.HEAD, cluster.SECOND}
    cluster.wait_for(
        lambda: cluster.nodes_of(results) == both and len(half_done(results)) >= 2, 200,
        "no two trials have reported, on both nodes",
    )  # fmt: skip
    cluster.job("stop", "stopped")
    said = cluster.job("logs", "stopped").stdout
    assert f"To go on: python tune.py --resume search --runs-dir {tmp_path}" in said
    told = half_done(results)
    assert told
    for name, lines in told.items():
        last = json.loads(lines.splitlines()[-1])["step"]
        kept = results / "stopped" / name / "checkpoint_last" / "session" / "session.json"
        assert json.loads(kept.read_text())["step"] >= last


def test_whoever_has_no_token_is_refused(cluster, plan, tmp_path):
    environment = {**cluster.environment, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "tune.py", "--ray-address", cluster.address, "--runs-dir", tmp_path, *plan]
    done = cluster.run(*command, env=environment)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"Error: --ray-address {cluster.address}: no Ray answers there")
    assert "if it wants a token: set RAY_AUTH_MODE=token" in last
    assert list(tmp_path.iterdir()) == []


def most_at_once(spans):
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def test_two_searches_of_one_name_at_once_do_not_mix_and_both_get_their_share(cluster, mlflow, plan, tmp_path):
    folders = [tmp_path / user for user in ("ada", "bob")]
    flags = ["--num-samples", "8", "--confirm-seeds", "0", "--epochs", "240", "--max-concurrent-trials", "2"]
    started = [
        cluster.processes.start(
            folder.name,
            [sys.executable, "tune.py", "--ray-address", cluster.address, "--runs-dir", str(folder),
             "--mlflow-uri", mlflow, *plan, *flags, "--seed", str(seed)],
            cwd=ROOT, env=cluster.environment,
        )
        for seed, folder in enumerate(folders)
    ]  # fmt: skip
    assert [process.wait(400) for process in started] == [0, 0]
    spans = []
    for seed, folder in enumerate(folders):
        rows = read_rows(folder / "search" / "rows.jsonl")
        (parent,), children = mlflow_runs(mlflow, folder / "search")
        assert parent.data.params["seed"] == str(seed)
        assert [row.seed for row in rows] == [seed] * 8
        assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
        assert {run.info.run_name for run in children} == {row.experiment_name for row in rows}
        spans.append([(run.info.start_time, run.info.end_time) for run in children])
        assert most_at_once(spans[-1]) == 2
    assert most_at_once(spans[0] + spans[1]) == 4


def trainers(cluster):
    """Return the cluster's processes that have PyTorch in them; nothing else of a search does."""
    processes = []
    for process in cluster.workers():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            processes += [process] if any("libtorch" in part.path for part in process.memory_maps()) else []
    return processes


def test_a_killed_search_leaves_nothing_running_on_a_cluster_and_goes_on(cluster, plan, tmp_path):
    process, results = cluster.begin(plan, tmp_path, "killed")
    cluster.wait_for(lambda: process.poll() is not None or cluster.nodes_of(results), 200, "no trial has reported")
    assert trainers(cluster)
    process.kill()
    process.wait(30)
    cluster.wait_for(lambda: not trainers(cluster), 90, "the killed search's hosts go on")
    flags = ("--resume", "search", "--ray-address", cluster.address, "--runs-dir", tmp_path)
    done = cluster.run(sys.executable, "tune.py", *flags)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "search" / "rows.jsonl")
    assert sorted(row.trial_id for row in rows) == [f"t00{number}" for number in range(1, 7)]
    assert {row.status for row in rows} == {"finished"}
