"""Who checks a plan: this process if it has torch already, and otherwise a host."""

import logging
import os
import sys

import ray

from trainables.actors.host_registry import Hosts
from trainables.models import files, hub
from tuning.cluster import hosting
from tuning.lifecycle import process
from tuning.observer import SearchObserver
from tuning.plan.places import check_places
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import checking


def asks_a_host(plan: SearchPlan) -> bool:
    """Return True if a host is to check a plan: a command then never imports torch, which takes seconds.

    A program may have it already, and is not to wait for a Ray to hear what is wrong. Nodes of a Ray that others have
    started may not see what this process does.
    """
    begins_ray = plan.ray_address is None and not ray.is_initialized()
    return begins_ray and process.is_of_a_search() and "torch" not in sys.modules


def check_at_once(plan: SearchPlan) -> None:
    """Check what needs no torch and no time, before a Ray is started for the rest.

    Raises:
        ValueError: The runs folder, MLflow's address or a model's files are not as they must be.
    """
    check_places(plan)
    if not hub.is_hub_id(plan.model):
        files.check_weights(plan.model)


def by_host(plan: SearchPlan, hosts: Hosts, observer: SearchObserver) -> checking.Checked:
    """Have a host check a plan, and say what it says.

    Args:
        plan: The search, its devices decided.
        hosts: Those of the search.
        observer: Hears it.

    Raises:
        ValueError: As ``preflight.check`` and ``memory.planned``.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    checked: checking.Checked = hosting.call(plan, hosts, checking.checked_here, plan, os.getcwd(), threads)
    for name, level, message in checked.logged:
        logging.getLogger(name).log(level, "%s", message)
    if plan.time_limit is not None:
        observer.planned(checked.plan)
    observer.sized(checked.size)
    for line in checked.notes:
        observer.noted(line)
    return checked
