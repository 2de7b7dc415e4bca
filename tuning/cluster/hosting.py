"""The hosts of a search, from before anything is measured until after the last thing is."""

import contextlib
import logging
import math
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.actors.host_registry import Hosts
from trainables.actors.liveness import Lease
from trainables.models.device import MPS
from trainables.spec import Workload
from tuning.cluster import ray_compat
from tuning.lifecycle.stop import Stop, Stopped
from tuning.plan.search_plan import SearchPlan

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.2
R = TypeVar("R")
LEASE = "lease"
"""Name, in the search's namespace, of what its hosts elsewhere live by."""


@contextmanager
def hosts_for(plan: SearchPlan, workload: Workload | None) -> Iterator[Hosts]:
    """Yield the hosts of a search; they end with the block.

    Args:
        plan: The search.
        workload: As far as it is known; ``Hosts.sharing`` says more later. None has hosts begin that load no base yet.
    """
    # a Ray that began here ends with this process, and hosts with it; elsewhere they must see that it is gone
    lease = _signed(plan) if _lease(plan) else None
    # a number may follow the plan's name later, and a program's Ray may have hosts of another search of that name
    name = f"lora-rank-search-{plan.name}-{uuid.uuid4().hex[:8]}"
    hosts = Hosts(name, [ray.put(workload)], _per_node(plan), _lease(plan), plan.isolation == "process")
    try:
        for device in _devices_that_begin(plan, hosts):
            host = _host(hosts, device)
            if workload is not None:
                host.load.remote(hosts.workload)
            log.info("host of %s begins%s", device, "" if workload is None else ", and loads the base")
        yield hosts
    finally:
        end(hosts)
        if lease is not None:
            with contextlib.suppress(ray.exceptions.RayError):  # it has ended with Ray
                ray.kill(lease)


def load(plan: SearchPlan, hosts: Hosts) -> None:
    """Have the hosts that have begun load the base of their workload."""
    for device in _devices_that_begin(plan, hosts):
        _host(hosts, device).load.remote(hosts.workload)
        log.info("host of %s loads the base", device)


def call(plan: SearchPlan, hosts: Hosts, function: Callable[..., R], *arguments: Any) -> R:
    """Call a function in the first host of this machine, once more in another if that dies.

    Raises:
        RayError: It could not be done.
        Exception: What the function raised.
    """
    log.info("a host is asked for %s", function.__name__)
    for is_last in (False, True):
        try:
            result: R = ray.get(_host(hosts, _devices(plan, hosts)[0]).call.remote(function, *arguments))
            return result
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError:
            if is_last:
                raise
    raise AssertionError


def ask(plan: SearchPlan, hosts: Hosts, what: str, *arguments: Any, stop: Stop | None = None) -> Any:
    """Call a method of ``Host`` where the trials run, as ``run``; the host stays for the next question.

    Args:
        plan: The search.
        hosts: Its hosts.
        what: Name of the method.
        arguments: What it is given besides the workload.
        stop: Says whether the answer is still wanted.

    Raises:
        RayError: It could not be done; a ``RayTaskError`` has as its cause what the method raised.
        Stopped: It is not.
    """
    log.info("a host is asked for %s", what)
    return run(plan, Hosts.ask_here, hosts, what, *arguments, stop=stop)


def run(plan: SearchPlan, function: Callable[..., R], *arguments: Any, stop: Stop | None = None) -> R:
    """Call a function in a process where the trials run, once there are the resources of one.

    Raises:
        RayError: It could not be done; a ``RayTaskError`` has as its cause what the function raised.
        Stopped: The answer is no longer wanted.
    """
    again = [ray.exceptions.RayActorError]  # a host died; the next is another
    task = ray.remote(num_cpus=plan.cpus_per_trial, num_gpus=plan.gpus, retry_exceptions=again)(function)
    answer = task.remote(*arguments)
    try:
        while stop is not None and not ray.wait([answer], timeout=LOOK_SECONDS)[0]:
            stop.check()
        result: R = ray.get(answer)
        return result
    except Stopped:
        ray.cancel(answer, force=True)  # it would begin another host
        raise


def release(plan: SearchPlan, hosts: Hosts) -> None:
    """End the hosts while no trial runs, if somebody else may want their room: others, or the trials themselves."""
    if plan.isolation == "process" or plan.ray_address is not None:
        end(hosts)


def end(hosts: Hosts) -> None:
    """End the hosts; a trial or a question begins new ones. Where Ray itself has ended, nothing is left of them."""
    with contextlib.suppress(ray.exceptions.RayError):
        for name in _names(hosts):
            with contextlib.suppress(ValueError):  # it has just died
                ray.kill(ray.get_actor(name))
                log.info("host %s ends", name)


def save_all(hosts: Hosts, folder: Path, most_seconds: float) -> None:
    """Have every host write where its trials stand, and wait for it, but not for long."""
    saved = []
    for name in _names(hosts):
        with contextlib.suppress(ValueError):  # it has just died
            saved.append(ray.get_actor(name).save_all.remote(str(folder)))
    if saved:
        ray.wait(saved, num_returns=len(saved), timeout=most_seconds)


def _names(hosts: Hosts) -> list[str]:
    """Return the names of the hosts that there are; a program's own actors may be beside them."""
    return [name for name in ray.util.list_named_actors() if name.startswith(f"{hosts.search}-")]


def _signed(plan: SearchPlan) -> Any:
    """Return a lease on this process's own node: on another it could end while the search goes on."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Lease).options(name=_lease(plan), num_cpus=0, scheduling_strategy=here).remote()


def _lease(plan: SearchPlan) -> str:
    return "" if plan.ray_address is None and ray_compat.began_here() else LEASE


def _per_node(plan: SearchPlan) -> int:
    if plan.device == MPS:  # of which a machine has one
        return 1
    cpus = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    most = math.ceil(max(plan.trials, plan.most_confirmations) / plan.trials_per_pack)
    return max(1, min(most, int(cpus // plan.cpus_per_trial)))


def _devices_that_begin(plan: SearchPlan, hosts: Hosts) -> list[str]:
    """Return the devices whose hosts begin before a trial does: every device is ours, and the hosts stay."""
    ours = plan.isolation == "packed" and plan.ray_address is None
    return _devices(plan, hosts)[: plan.max_concurrent_trials] if ours else []


def _devices(plan: SearchPlan, hosts: Hosts) -> list[str]:
    return _gpus() if plan.gpus else [f"cpu{number}" for number in range(hosts.per_node)]


def _host(hosts: Hosts, device: str) -> Any:
    return hosts.at(ray.nodes()[0]["NodeID"], device)


def _gpus() -> list[str]:
    """Return the GPUs of this machine as Ray names them to trials."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else range(int(ray.cluster_resources()["GPU"]))
    return [f"gpu{name}" for name in names]
