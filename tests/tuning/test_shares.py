"""How many trials a device has at a time."""

import dataclasses
import time

import pytest
import ray

from trainables.trainable import LoraTrainable
from tuning import preflight, search
from tuning.cli import resolve_plan
from tuning.harvest import Harvest
from tuning.hosting import hosts_for
from tuning.ray_connection import ray_for
from tuning.record import Record
from tuning.stop import Stop

pytestmark = pytest.mark.slow


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


def _meeting_trainable(folder):
    class Meeting(LoraTrainable):  # local, so that it travels to the trial's process by value
        """It waits until four trials have begun, and then long enough for a fifth to begin if it may."""

        def step(self):
            (folder / self.config["trial_id"]).touch()
            deadline = time.monotonic() + 100
            while len(list(folder.iterdir())) < 4:
                assert time.monotonic() < deadline, "no four trials at a time"
                time.sleep(0.1)
            time.sleep(1.5)
            return super().step()

    return Meeting


def _given(small):
    """Return the fields of the plan that flags stand for."""
    return {
        flag[2:].replace("-", "_"): (int(value) if value.isdigit() else value)
        for flag, value in zip(small[::2], small[1::2], strict=True)
    }


def test_four_trials_share_a_gpu_in_quarters_and_a_fifth_waits(small, tmp_path, monkeypatch):
    (met := tmp_path / "met").mkdir()
    monkeypatch.setattr(search, "LoraTrainable", _meeting_trainable(met))
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
