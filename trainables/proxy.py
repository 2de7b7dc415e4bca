"""A trial as Ray sees it when trials are packed: a small process that asks its device's host. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune as ray_tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

THREADS = 256


@dataclass(frozen=True, slots=True)
class Packing:
    """How trials find their host.

    Args:
        search: Names the search's hosts apart from others'.
        workload: Reference to the workload in a list, so that this process never unpacks it.
        hosts_per_node: Hosts of a node without GPUs; a GPU has one.
        lease: Name of an actor that lives as long as the search does; hosts end when it is gone.
        checkpoints: Trial id -> where an earlier run of the search left it.
    """

    search: str
    workload: list[Any]
    hosts_per_node: int
    lease: str = ""
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def host(self, node: str, device: str) -> Any:
        """Return a node's host for a device, ``cpuN`` or ``gpuN``; the first who asks starts it.

        It takes no resources: its trials do.
        """
        from trainables.host import Host  # by reference: this process must not import torch

        # each call comes by another thread, and glibc would keep a step's memory for each of up to eight a core
        variables = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "MALLOC_ARENA_MAX": "2"}
        if device.startswith("gpu"):
            variables["CUDA_VISIBLE_DEVICES"] = device.removeprefix("gpu")
        return (
            ray.remote(Host)
            .options(
                name=f"{self.search}-{node}-{device}",
                get_if_exists=True,
                num_cpus=0,
                num_gpus=0,
                max_concurrency=THREADS,
                lifetime="detached",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": variables},
            )
            .remote(self.workload, self.lease)
        )


class PackedTrainable(ray_tune.Trainable):  # type: ignore[misc]
    """Setup, step, save and load, each a call to the host."""

    def setup(self, config: dict[str, Any], packing: Packing | None = None) -> None:
        """Remember the trial. It is admitted at its first step: Ray may set up more trials than it runs."""
        if packing is None:
            raise ValueError("PackedTrainable needs a packing; wrap it with ray.tune.with_parameters")
        self.packing, self.key, self.number = packing, None, None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over the next trial in the same process."""
        self._free()
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report, together with the host's other trials."""
        again = False
        if self.key is None:
            checkpoint = self.packing.checkpoints.get(self.config.get("trial_id", ""))
            self._admit(checkpoint)
            again = checkpoint is not None
        # the task's name is the only place where Ray's dashboard shows which trial trains
        report: dict[str, Any] = ray.get(self.host.step.options(name=self.trial_name).remote(self.key, again))
        return report

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial's state; the host is on this node."""
        ray.get(self.host.save.remote(self.key, checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue from ``save_checkpoint``'s folder."""
        self._free()
        self._admit(checkpoint_dir)

    def cleanup(self) -> None:
        """Leave the host."""
        self._free()

    def _admit(self, checkpoint: str | None) -> None:
        node, gpus = ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()
        if gpus:
            self.host = self.packing.host(node, f"gpu{gpus[0]}")
        else:
            self.usher = self.packing.host(node, "cpu0")
            self.number = ray.get(self.usher.assign.remote(self.packing.hosts_per_node))
            self.host = self.packing.host(node, f"cpu{self.number}")
        self.key = ray.get(self.host.admit.remote(self.trial_name, self.config, checkpoint))

    def _free(self) -> None:
        if self.key is not None:
            self.host.free.remote(self.key)
            self.key = None
        if self.number is not None:
            self.usher.leave.remote(self.number)
            self.number = None
