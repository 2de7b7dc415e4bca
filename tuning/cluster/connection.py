"""The Ray of a search: one that it joins, or one of its own that ends with it."""

import contextlib
import logging
import math
import resource
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group

from analysis.results.messages import one_line
from trainables.actors.liveness import lives
from trainables.models.device import MPS
from tuning.cluster import access, ray_compat
from tuning.lifecycle.process import leave_because, quieten_ray, sparing_children
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan

log = logging.getLogger(__name__)
PATIENCE_SECONDS, LOOK_SECONDS, WATCH_SECONDS = 600.0, 1.0, 0.2


class RayDidNotStart(RayError):  # type: ignore[misc]
    """A Ray of our own does not come up."""


@contextmanager
def ray_for(plan: SearchPlan, search_id: str = "", observer: SearchObserver | None = None) -> Iterator[str]:
    """Join the Ray that the plan names, or start one of our own and end it afterwards; yield its dashboard's address.

    Args:
        plan: The search.
        search_id: Of the search, whose processes are found under it and by nobody else.
        observer: Hears that a node is waited for.

    Raises:
        ValueError: The Ray that is there lacks what one trial needs, and goes on lacking it if it was joined, or one of
            our own would be open to others.
    """
    quieten_ray()  # a test may have taken it back
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is one line of progress and a row
    ours = not ray.is_initialized()
    context = _connect(plan, f"lora-rank-search-{search_id or uuid.uuid4().hex}")
    try:
        if ours:
            end_what_is_left()
        with _watching_ray():
            await_resources(plan, observer or SearchObserver())
            address, how = ray.get_runtime_context().gcs_address, "joined" if plan.ray_address else "of this search"
            log.info("Ray at %s (%s): %s", address, how, ray.cluster_resources())
            yield context.dashboard_url or ""
    finally:
        if ours:
            ray.shutdown()


def end_what_is_left() -> None:
    """End the actors, hosts and lease, of a process of this search that was killed."""
    for left in ray.util.list_named_actors():
        with contextlib.suppress(ValueError):  # it has just died
            ray.kill(ray.get_actor(left))


@contextmanager
def _watching_ray() -> Iterator[None]:
    """End this process if the raylet or the GCS of its machine does.

    Ray would at its next request to the one without a word, and to the other after a minute of nothing.
    """
    processes, over = {"raylet": ray_compat.raylet(), "GCS": ray_compat.gcs()}, threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            for name, process in processes.items():
                if process is not None and not lives(process):
                    leave_because(f"Ray has ended: its {name} was killed, or crashed")

    thread = threading.Thread(target=watch, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _connect(plan: SearchPlan, namespace: str) -> Any:
    common = {
        "namespace": namespace, "log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True,
    }  # fmt: skip
    if plan.ray_address is None:
        access.check_dashboard(plan.dashboard_host)
        access.provide_token()
        access.tighten_token()
        folder = access.private_folder() / "ray"
        options = {"dashboard_host": plan.dashboard_host, **ray_compat.in_folder(folder), **common}
        try:
            return _start(options)
        except OSError as error:
            if not ray_compat.is_too_long_for_sockets(error):
                raise
            raise ValueError(
                f"{folder}: too long for Ray's sockets; set {ray_compat.TEMPORARY} to a shorter folder"
            ) from error
        except Exception as error:
            raise RayDidNotStart(f"{one_line(str(error))}{_limit_of_addresses()} Its logs: {folder}") from error
    if plan.dashboard_host != SearchPlan.model_fields["dashboard_host"].default:
        raise ValueError(
            f"--dashboard-host {plan.dashboard_host}: the Ray at --ray-address {plan.ray_address} has its dashboard "
            f"already; leave the flag out"
        )
    access.tighten_token()
    try:
        with ray_compat.keeping_handlers():
            return ray.init(address=plan.ray_address, **common)
    except ray.exceptions.AuthenticationError as error:
        raise ValueError(f"--ray-address {plan.ray_address}: the Ray there has another token ({access.HOW})") from error
    except (ConnectionError, RuntimeError) as error:
        # a Ray that wants a token gives no answer to those who show none
        raise ValueError(
            f"--ray-address {plan.ray_address}: no Ray answers there ({error}); if it wants a token: {access.HOW}"
        ) from error


def _start(options: dict[str, Any]) -> Any:
    """Start a Ray of our own; once more if its processes do not answer in the 30 s that it gives them.

    That happens on a machine with much other work, and a limit of addresses, which is no matter of time, ends both.
    """
    for is_last in (False, True):
        here = psutil.Process()
        before = here.children(recursive=True)
        try:
            with ray_compat.on_loopback(), sparing_children(), ray_compat.keeping_handlers():
                return ray.init(address="local", **options)
        except OSError:
            raise
        except Exception as error:  # Ray raises just that
            for process in set(here.children(recursive=True)) - set(before):  # Ray leaves them
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if is_last:
                raise
            log.warning("Ray does not start, trying once more: %s", one_line(str(error)))
    raise AssertionError


def _limit_of_addresses() -> str:
    """Return, in words, what this process may have of addresses, of which Ray needs far more than of memory."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ""
    return f" It may use {limit / 2**30:.1f} GiB of addresses and reserves far more than it uses: ulimit -v unlimited."


def await_resources(plan: SearchPlan, observer: SearchObserver) -> None:
    """Wait, but not for ever, for a node on which a trial fits: a Ray that is joined may grow by it.

    Raises:
        ValueError: There is none, or a Ray of our own is too small.
    """
    lack = _lack(plan)
    if lack and plan.ray_address is not None:
        observer.noted(f"Waiting for a node, for {PATIENCE_SECONDS / 60:g} minutes at most. {lack}")
        log.warning("waiting for a node: %s", lack)
        deadline = time.monotonic() + PATIENCE_SECONDS
        # an autoscaler starts nodes for what is asked for, and for nothing else
        asked = placement_group([{kind: wanted for _, kind, wanted in _needs(plan) if wanted}])
        while (lack := _lack(plan)) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        remove_placement_group(asked)
    if lack:
        raise ValueError(lack)


def _needs(plan: SearchPlan) -> tuple[tuple[str, str, float], ...]:
    return ("--gpus-per-trial", "GPU", plan.gpus), ("--cpus-per-trial", "CPU", plan.cpus_per_trial)


def _lack(plan: SearchPlan) -> str:
    """Return what no node has of what a trial needs, and what would be right; nothing if there is all."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for flag, kind, wanted in _needs(plan):
        if wanted > (most := max(node.get(kind, 0) for node in nodes)):
            return f"{flag} {wanted:g}: no node has more than {most:g} {kind}s; lower it, or add a node that has them"
    return ""


def unused_gpus(plan: SearchPlan) -> int:
    """Return how many GPUs Ray has if the plan uses none of them."""
    return 0 if plan.gpus_per_trial != 0 else int(ray.cluster_resources().get("GPU", 0))


def slots_of(plan: SearchPlan, resources: dict[str, float]) -> int:
    """Return how many trials run at once on the resources that Ray has now."""
    if plan.device == MPS:
        return plan.trials_per_pack
    wanted = plan.trial_resources
    return max(1, math.floor(min(resources.get(k.upper(), 0) / n for k, n in wanted.items() if n) + 1e-6))
