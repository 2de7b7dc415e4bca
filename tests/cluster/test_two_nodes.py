"""What a search does on two real nodes: ``ray start`` twice, ``ray job submit``, an MLflow server on PostgreSQL."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from analysis.rows import read_rows
from tuning.carrier import EXPERIMENT

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plan(tiny_gpt2, tiny_text):
    """Four trials whose configurations do not depend on each other's results, and their confirmation."""
    names = ("baseline", "linear_decay", "attention_heavy", "empirical")
    return [
        "--model", str(tiny_gpt2), "--dataset", str(tiny_text), "--train-examples", "16", "--validation-examples", "8",
        "--test-examples", "8", "--max-length", "32", "--learning-rate", "0.01", "--scheduler", "fifo",
        "--num-samples", "4", "--confirm-seeds", "1", "--max-concurrent-trials", "4", "--name", "search",
        *[word for name in names for word in ("--strategies", name)],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def job(mlflow, cluster, plan, tmp_path_factory):
    """(completed submission, run folder) of a search that was submitted as a job."""
    shared = tmp_path_factory.mktemp("shared")
    done = cluster.submit(
        sys.executable, "tune.py", "--ray-address", "auto", "--runs-dir", shared, "--mlflow-uri", mlflow, *plan
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done, shared / "search"


def known(run_dir):
    """What depends on neither time nor place."""
    return {
        (row.phase, row.strategy, row.seed): (
            row.status, row.ranks, row.config[row.strategy],
            pytest.approx(row.final_eval_loss, abs=1e-5), pytest.approx(row.test_loss, abs=1e-5),
        )
        for row in read_rows(run_dir / "rows.jsonl")
    }  # fmt: skip


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
    return sorted(sorted(re.findall(r"[^\s,;:|-]+", line)) for line in text.splitlines())


def mlflow_runs(address, run_dir):
    """Return (parents, their group and trials) of the search whose folder this is."""
    client = MlflowClient(tracking_uri=address)
    search = json.loads((run_dir / "facts.json").read_text())["search_id"]
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], max_results=1000)
    own = [run for run in found if run.data.tags["rank_search.trial_id"].startswith(f"{search}/")]
    return [run for run in own if "mlflow.parentRunId" not in run.data.tags], [
        run for run in own if "mlflow.parentRunId" in run.data.tags
    ]


def test_a_jobs_trials_run_on_both_nodes_and_its_artifacts_reach_the_shared_folder(cluster, job):
    nodes = {json.loads(path.read_text().splitlines()[0])["node_ip"] for path in job[1].glob("ray/*/*/result.json")}
    assert nodes == {cluster.HEAD, cluster.SECOND}
    for name in ("report.html", "report.md", "rows.csv", "plan.json", "best_adapter/adapter_model.safetensors"):
        assert (job[1] / name).is_file()


def test_the_report_is_that_of_a_local_run(job, plan, tmp_path):
    command = [sys.executable, "tune.py", "--runs-dir", str(tmp_path), *plan]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    local = tmp_path / "search"
    assert known(job[1]) == known(local)
    assert told(job[1]) == told(local)


def test_mlflow_on_postgresql_has_the_search_with_its_trials(mlflow, job):
    rows = read_rows(job[1] / "rows.jsonl")
    (parent,), below = mlflow_runs(mlflow, job[1])
    assert parent.info.status == "FINISHED"
    assert {run.info.run_name for run in below} == {row.experiment_name for row in rows} | {"confirm"}


def test_whoever_has_no_token_is_refused_in_one_line(cluster, plan, tmp_path):
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


LONG = ("--num-samples", "6", "--confirm-seeds", "0", "--epochs", "200", "--max-concurrent-trials", "6")


def begun(cluster, plan, runs, name, *flags):
    """Start a search of long trials, and return it and where its trials' results are."""
    command = [sys.executable, "tune.py", "--ray-address", cluster.address, "--runs-dir", runs, *plan, *LONG, *flags]
    process = cluster.processes.start(name, [*map(str, command)], cwd=ROOT, env=cluster.environment)
    return process, runs / "search" / "ray"


def test_a_job_that_is_stopped_ends_in_order_and_says_how_to_go_on(cluster, plan, tmp_path):
    command = [sys.executable, "tune.py", "--ray-address", "auto", "--runs-dir", tmp_path, *plan, *LONG]
    submitted = cluster.submit(*command, flags=("--no-wait", "--submission-id", "stopped"))
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    cluster.wait_for(lambda: nodes_of(tmp_path / "search" / "ray"), 200, "no trial has reported")
    cluster.job("stop", "stopped")
    said = cluster.job("logs", "stopped").stdout
    assert f"To go on: python tune.py --resume search --runs-dir {tmp_path}" in said


def nodes_of(results, reports=1):
    """Return the nodes on which a trial has reported that often."""
    found = (path.read_text().split("\n")[:-1] for path in results.glob("*/*/result.json"))
    return {json.loads(lines[0])["node_ip"] for lines in found if len(lines) >= reports}


def test_a_node_that_goes_away_in_the_middle_takes_no_trial_with_it(cluster, plan, tmp_path, around_restarts):
    third = cluster.join(cluster.THIRD)
    process, results = begun(cluster, plan, tmp_path, "leaving")
    cluster.wait_for(
        lambda: process.poll() is not None or cluster.THIRD in nodes_of(results, 2), 200, "no trial on the third node"
    )
    for child in [*third.children(recursive=True), third]:
        child.kill()
    assert process.wait(400) == 0
    rows = read_rows(tmp_path / "search" / "rows.jsonl")
    assert [row.status for row in rows] == ["finished"] * 6
    assert sum(row.restarts for row in rows) >= 1
    steps = {tuple(report["step"] for report in row.history) for row in rows}
    assert steps == {(100, 200, 300, 400)}, "a trial that goes on elsewhere has all of its reports"
    restarts = around_restarts(tmp_path / "search")
    assert all(after >= before for before, after in restarts), "it goes on from its checkpoint"
    assert max(before for before, _ in restarts) >= 200


def test_what_hosts_live_by_is_on_the_node_of_the_search_and_on_no_other(cluster):
    """By default Ray puts it onto any node, so that each node that leaves might end the hosts of all."""
    code = """
import sys, ray
from tuning.hosting import hosts_for
from tuning.plan import SearchPlan
ray.init(sys.argv[1], namespace="leases", log_to_driver=False, logging_level="ERROR")
plan = SearchPlan(ray_address=sys.argv[1], name="leased")
for _ in range(8):
    with hosts_for(plan, None) as hosts:
        lease = ray.get_actor(hosts.lease)
        ray.get(lease.__ray_ready__.remote())
        print(ray._private.state.actors(lease._actor_id.hex())["Address"]["NodeID"])
print(ray.get_runtime_context().get_node_id())
"""
    done = cluster.run(sys.executable, "-c", code, cluster.address)
    assert done.returncode == 0, done.stderr
    *found, own = done.stdout.split()
    assert found == [own] * 8


def trainers(cluster):
    """Return the cluster's processes that have PyTorch in them; nothing else of a search does."""
    found = []
    for process in cluster.workers():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found += [process] if any("libtorch" in part.path for part in process.memory_maps()) else []
    return found


def test_a_killed_search_leaves_nothing_running_on_a_cluster_and_goes_on(cluster, plan, tmp_path):
    process, results = begun(cluster, plan, tmp_path, "killed")
    cluster.wait_for(lambda: process.poll() is not None or nodes_of(results), 200, "no trial has reported")
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


def pending(cluster):
    """Return what has been asked for and has no room, as an autoscaler sees it."""
    code = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
groups = ray.util.placement_group_table().values()
print([group["bundles"] for group in groups if group["state"] == "PENDING"])
"""
    return cluster.run(sys.executable, "-c", code, cluster.address).stdout.strip()


def test_a_search_that_fits_no_node_yet_says_so_asks_for_one_and_begins_once_it_is_there(cluster, plan, tmp_path):
    flags = ["--cpus-per-trial", "3", "--confirm-seeds", "0"]
    command = [sys.executable, "tune.py", "--ray-address", cluster.address, "--runs-dir", tmp_path, *plan, *flags]
    process = cluster.processes.start("waiting", [*map(str, command)], cwd=ROOT, env=cluster.environment)
    said = cluster.processes.logs / "waiting.log"
    cluster.wait_for(lambda: process.poll() is not None or said.read_text(), 60, "nothing said")
    assert pending(cluster) == "[{0: {'CPU': 3.0}}]"
    assert said.read_text() == (
        "Waiting for a node, for 10 minutes at most. --cpus-per-trial 3: no node has more than 2 CPUs; lower it, or "
        "add a node that has them\n"
    )
    third = cluster.join(cluster.THIRD, "--num-cpus", "3")
    try:
        assert process.wait(400) == 0
    finally:
        third.terminate()
        third.wait(30)
    assert [row.status for row in read_rows(tmp_path / "search" / "rows.jsonl")] == ["finished"] * 4


@pytest.fixture
def other_folders(tmp_path, tiny_gpt2, lacking):
    """Run a command as on a machine that mounts something else as the runs folder and as the model."""
    (tmp_path / "runs").mkdir()
    shutil.copytree(tiny_gpt2, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.1}))
    mounts = f"mount -t tmpfs none {tmp_path}/runs && mount --bind {tmp_path}/model {tiny_gpt2}"
    if subprocess.run(["unshare", "--mount", "sh", "-c", mounts], check=False).returncode:
        lacking("no mounts of one's own without root")
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" "$@"']


def test_a_node_that_lacks_the_shared_folder_or_the_base_is_named_and_nothing_starts(
    cluster, plan, tmp_path, tmp_path_factory, other_folders, tiny_gpt2
):
    third = cluster.join(cluster.THIRD, before=other_folders)
    seen_by_all = tmp_path_factory.mktemp("seen-by-all")
    try:
        for runs, expected in (
            (
                tmp_path / "runs",
                f"--runs-dir {tmp_path}/runs: node {cluster.THIRD} does not see what is written there;",
            ),
            (
                seen_by_all / "new" / "runs",
                f"--model {tiny_gpt2}: node {cluster.THIRD} has another model at {tiny_gpt2};",
            ),
        ):
            done = cluster.run(sys.executable, "tune.py", "--ray-address", cluster.address, "--runs-dir", runs, *plan)
            assert done.returncode == 2, done.stderr
            assert done.stderr.splitlines()[-1].startswith(f"Error: {expected}")
            assert not runs.exists() or list(runs.iterdir()) == []
        assert list(seen_by_all.iterdir()) == []
    finally:
        third.terminate()
        third.wait(30)
