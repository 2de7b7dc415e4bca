"""The hosts of a search, and how a process gets the one of a device. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.actors.host import Host, TrialHandle
from trainables.actors.ray_compat import DEVICES_STAY_VISIBLE
from trainables.models.device import given_by

if TYPE_CHECKING:
    from trainables.data.splits import Example
    from trainables.postprocess.verification import NotReloaded
    from trainables.spec import Workload

THREADS = 256


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts of a search.

    Args:
        search: Names its hosts apart from others'.
        workload: Reference to the workload in a list, so that Ray does not unpack it on the way.
        per_node: Hosts of a node without GPUs; a GPU has one.
        lease: Name of an actor that lives as long as the search does; hosts end when it is gone.
        alone: Whether each trial has a host of its own, which ends with the trial's process.
    """

    search: str
    workload: list[Any]
    per_node: int
    lease: str = ""
    alone: bool = False
    actor: ClassVar[type] = Host
    """Class of the actors."""

    def sharing(self, workload: Any) -> "Hosts":
        """Return the same hosts for another workload over the same base."""
        return replace(self, workload=[ray.put(workload)])

    def local_host(self) -> Any:
        """Return the host of the device that Ray gave to this process; without a GPU, the node's first."""
        gpus = ray.get_gpu_ids()
        return self.at(ray.get_runtime_context().get_node_id(), f"gpu{gpus[0]}" if gpus else "cpu0")

    def host_of(self, trial: TrialHandle) -> Any:
        """Return the host that is to train a trial of this process: that of its GPU, the emptiest, or its own."""
        gpus, node = ray.get_gpu_ids(), ray.get_runtime_context().get_node_id()
        device = f"gpu{gpus[0]}" if gpus else "cpu0"
        if self.alone:
            return self.at(node, device, owner=trial.pid)
        if gpus:
            return self.at(node, device)
        return self.at(node, f"cpu{ray.get(self.local_host().assign.remote(trial, self.per_node))}")

    def ask_here(self, method: str, *arguments: Any) -> Any:
        """Call a method of ``local_host`` with the workload, and return its answer."""
        return ray.get(getattr(self.local_host(), method).remote(self.workload, *arguments))

    def reloaded_here(
        self, workload: "Workload", adapters: Sequence[Path], examples: Sequence["Example"]
    ) -> list["float | NotReloaded"]:
        """Measure adapters on the device that Ray gave to this process, as ``verification.reloaded``."""
        from trainables.postprocess.verification import reloaded

        device = given_by(ray.get_gpu_ids())
        return reloaded(workload.model, adapters, examples, device, workload.precision)

    def at(self, node: str, device: str, owner: int | None = None) -> Any:
        """Return a node's host for a device, ``cpuN`` or ``gpuN``, or for one process; the first call starts it.

        It takes no resources: its trials do.
        """
        # each call runs on another thread, and glibc would keep its memory in up to eight arenas per core
        variables = {**DEVICES_STAY_VISIBLE, "MALLOC_ARENA_MAX": "2"}
        if device.startswith("gpu"):
            variables["CUDA_VISIBLE_DEVICES"] = device.removeprefix("gpu")
        return (
            ray.remote(self.actor)
            .options(
                name=f"{self.search}-{node}-{device}" + ("" if owner is None else f"-{owner}"),
                get_if_exists=True,
                num_cpus=0,
                num_gpus=0,
                max_concurrency=THREADS,
                lifetime="detached",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": variables},
            )
            .remote(self.lease, owner)
        )
