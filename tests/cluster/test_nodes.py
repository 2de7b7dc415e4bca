"""Nodes of a cluster that leave in the middle, come late, or lack what a search needs."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from analysis.results.rows import read_rows

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.cluster


def test_a_node_that_goes_away_in_the_middle_takes_no_trial_with_it(cluster, plan, tmp_path, around_restarts):
    third = cluster.join(cluster.THIRD)
    process, results = cluster.begin(plan, tmp_path, "leaving", "--epochs", "400")

    def in_the_middle():
        return process.poll() is not None or cluster.THIRD in cluster.nodes_of(results, 2)

    cluster.wait_for(in_the_middle, 200, "no trial on the third node")
    for child in [*third.children(recursive=True), third]:
        with contextlib.suppress(psutil.NoSuchProcess):  # once the raylet has ended, so do its workers
            child.kill()
    assert process.wait(400) == 0
    rows = read_rows(tmp_path / "search" / "rows.jsonl")
    assert [row.status for row in rows] == ["finished"] * 6
    assert sum(row.restarts for row in rows) >= 1
    steps = {tuple(report["step"] for report in row.history) for row in rows}
    assert steps == {(200, 400, 600, 800)}, "a trial that goes on elsewhere has all of its reports"
    restarts = around_restarts(tmp_path / "search")
    assert all(after >= before for before, after in restarts), "it goes on from its checkpoint"
    assert max(before for before, _ in restarts) >= 400


def test_what_hosts_live_by_is_on_the_node_of_the_search_and_on_no_other(cluster):
    """By default Ray puts it onto any node, so that each node that leaves might end the hosts of all."""
    code = """
import sys, ray
from tuning.cluster.hosting import hosts_for
from tuning.plan.search_plan import SearchPlan
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
    *nodes, drivers_node = done.stdout.split()
    assert nodes == [drivers_node] * 8


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
    cluster.wait_for(lambda: process.poll() is not None or "Waiting" in said.read_text(), 200, "nothing said")
    cluster.wait_for(lambda: pending(cluster) == "[{0: {'CPU': 3.0}}]", 60, "no autoscaler would see what is wanted")
    assert said.read_text().splitlines()[-1] == (
        "Waiting for a node, for 10 minutes at most. --cpus-per-trial 3: no node has more than 2 CPUs; lower it, or "
        "add a node that has them"
    )
    third = cluster.join(cluster.THIRD, "--num-cpus", "3")
    try:
        assert process.wait(400) == 0
    finally:
        third.terminate()
        third.wait(120)
    assert [row.status for row in read_rows(tmp_path / "search" / "rows.jsonl")] == ["finished"] * 2


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
        third.wait(120)
