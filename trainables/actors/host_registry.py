"""How the host of a device is found, by whoever needs its base. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.actors.host import Host

THREADS = 256


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts of a search.

    Args:
        search: Names its hosts apart from others'.
        workload: Reference to the workload in a list, so that whoever passes it on does not unpack it.
        per_node: Hosts of a node without GPUs; a GPU has one.
        lease: Name of an actor that lives as long as the search does; hosts end when it is gone.
    """

    search: str
    workload: list[Any]
    per_node: int
    lease: str = ""
    actor: ClassVar[type] = Host
    """Whose actors they are."""

    def sharing(self, workload: Any) -> "Hosts":
        """Return the same hosts for another workload over the same base."""
        return replace(self, workload=[ray.put(workload)])

    def here(self) -> Any:
        """Return the host of the device that Ray gave to the process that asks; without a GPU, the node's first."""
        gpus = ray.get_gpu_ids()
        return self.at(ray.get_runtime_context().get_node_id(), f"gpu{gpus[0]}" if gpus else "cpu0")

    def ask_here(self, what: str, *arguments: Any) -> Any:
        """Call a method of the host that is here, about its workload, and return its answer."""
        return ray.get(getattr(self.here(), what).remote(self.workload, *arguments))

    def at(self, node: str, device: str) -> Any:
        """Return a node's host for a device, ``cpuN`` or ``gpuN``; the first who asks starts it.

        It takes no resources: its trials do.
        """
        # each call comes by another thread, and glibc would keep a step's memory for each of up to eight a core
        variables = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "MALLOC_ARENA_MAX": "2"}
        if device.startswith("gpu"):
            variables["CUDA_VISIBLE_DEVICES"] = device.removeprefix("gpu")
        return (
            ray.remote(self.actor)
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
            .remote(self.lease)
        )
