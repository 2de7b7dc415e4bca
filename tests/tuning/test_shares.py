"""How many trials a device has at a time."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from tests.fakes.hosts import FakeHosts
from trainables.actors.packed_trainable import PackedTrainable
from tuning.callbacks.trial_callback import Harvest
from tuning.cli import resolve_plan
from tuning.cluster import hosting
from tuning.cluster.connection import ray_for, slots_of
from tuning.lifecycle.stop import Stop
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import preflight
from tuning.state.record import Record
from tuning.trials import tuner

ROOT = Path(__file__).parents[2]


class Counting:
    """Counts trials that run at the same time."""

    def __init__(self):
        self.running, self.most = set(), 0

    def started(self, config):
        self.running.add(config.trial_id)
        self.most = max(self.most, len(self.running))

    def reported(self, trial_id, report):
        assert trial_id in self.running

    def ended(self, row):
        self.running.discard(row.trial_id)


def meeting(trainable, folder):
    class Meeting(trainable):  # local, so that it travels to the trial's process by value
        """It waits until four trials have begun, and then long enough for a fifth to begin if it may."""

        def step(self):
            (folder / self.config["trial_id"]).touch()
            deadline = time.monotonic() + 100
            while len(list(folder.iterdir())) < 4:
                assert time.monotonic() < deadline, "no four trials at a time"
                time.sleep(0.1)
            time.sleep(1.0)
            return super().step()

    return Meeting


@pytest.mark.parametrize(
    ("choices", "available", "slots"),
    [
        ({"gpus_per_trial": 0.25, "cpus_per_trial": 0.5}, {"CPU": 8.0, "GPU": 1.0}, 4),
        ({"gpus_per_trial": 0.25, "cpus_per_trial": 0.5, "isolation": "process"}, {"CPU": 1.0, "GPU": 1.0}, 2),
        ({"gpus_per_trial": 0.1}, {"CPU": 8.0, "GPU": 2.0}, 20),
        ({"pack_size": 2}, {"CPU": 2.0}, 4),
        ({"cpus_per_trial": 4}, {"CPU": 2.0}, 1),
    ],
)
def test_a_search_has_as_many_trials_at_a_time_as_fit_onto_what_ray_has(choices, available, slots):
    assert slots_of(SearchPlan(**choices), available) == slots


@pytest.mark.search
@pytest.mark.thorough
def test_four_trials_share_two_cores_in_halves_and_a_fifth_waits(fake_hosts, small, tmp_path, monkeypatch):
    (met := tmp_path / "met").mkdir()
    monkeypatch.setattr(tuner, "PackedTrainable", meeting(PackedTrainable, met))
    # more may run at a time as far as the search goes, so that it is Ray that has the fifth wait
    assert trained(small, tmp_path, isolation="packed", pack_size=2, max_concurrent_trials=8) == (["finished"] * 8, 4)


def trained(small, runs, **choices):
    """Train eight trials; return how they ended and how many ran at a time."""
    given = {
        flag[2:].replace("-", "_"): (int(value) if value.isdigit() else value)
        for flag, value in zip(small[::2], small[1::2], strict=True)
    }
    plan = resolve_plan(None, {
        **given, "num_samples": 8, "scheduler": "fifo", "reports": 1, "runs_dir": str(runs), "name": "shared",
        "strategies": ("baseline", "linear_decay"), **choices,
    })  # fmt: skip
    counting = Counting()
    with ray_for(plan):
        plan.run_dir.mkdir()
        checked = preflight.check(plan)
        checked = dataclasses.replace(checked, workload=dataclasses.replace(checked.workload, device="cpu"))
        record = Record(plan.run_dir)
        with hosting.hosts_for(plan, checked.workload) as hosts:
            trainable = tuner.trainable(plan, hosts, record)
            searcher = tuner.searcher(plan, checked, record)
            harvest = Harvest(record, Stop(plan.run_dir, 0), [counting])
            tuner.run(plan, trainable, searcher, plan.trials, harvest, "search")
    return [row.status for row in record.rows.values()], counting.most


def with_a_gpu(folder, isolation, small):
    """Do so on a Ray that has a GPU, and print what is returned."""
    (met := folder / "met").mkdir()
    hosting.Hosts = FakeHosts
    tuner.PackedTrainable = meeting(PackedTrainable, met)
    ray.init(
        address="local",
        num_gpus=1,
        num_cpus=8,
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=False,
        namespace="shares",
    )
    try:
        print(json.dumps(trained(small, folder, isolation=isolation, gpus_per_trial=0.25, cpus_per_trial=0.5)))
    finally:
        ray.shutdown()


@pytest.mark.process
@pytest.mark.thorough
@pytest.mark.parametrize("isolation", ["packed", "process"])
def test_four_trials_share_a_gpu_in_quarters_and_a_fifth_waits(isolation, small, tmp_path):
    code = (
        "import pathlib; from tests.tuning import test_shares\n"
        f"test_shares.with_a_gpu(pathlib.Path({str(tmp_path)!r}), {isolation!r}, {small!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["finished"] * 8, 4]
