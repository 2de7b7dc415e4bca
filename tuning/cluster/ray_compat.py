"""What a search relies on in Ray without Ray's promise: private names, settings, texts.

``trainables/actors/ray_compat.py`` has those that trials need. ``tests/contract/test_ray_compat.py`` fails if one of
them gets another name or meaning, and the bounds in ``pyproject.toml`` keep out a Ray for which it has not been run.
"""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker

TEMPORARY = "RAY_TMPDIR"
"""Variable that names the folder for temporary files; it counts before ``TMPDIR``."""
DIED = "ActorDiedError: "


def temporary_folder() -> Path:
    """Return the folder below which Ray puts its own, whose rules for that are written down nowhere else."""
    return Path(get_default_system_temp_dir())


def in_folder(folder: Path) -> dict[str, Any]:
    """Return the options of ``ray.init`` for another folder than that; public options have none."""
    return {"_temp_dir": str(folder)}


def is_too_long_for_sockets(error: OSError) -> bool:
    """Return True if Ray refuses a folder since its sockets' paths would be too long; only the text says so."""
    return "AF_UNIX" in str(error)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts within listen on this machine alone.

    On Linux Ray's own services listen on every network card, wherever the dashboard does, and no option changes that.
    The switch is the one by which Ray keeps to the loopback address on macOS and Windows: a name that is read while
    this process starts Ray, and a variable that the started processes read.
    """
    switch, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[switch] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[switch]


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Have a Ray that begins within not take over SIGTERM: it would end this process without a word or with a trace.

    ``ray.init`` calls a function for that, and has no option to leave it.
    """
    theirs, ray_utils.set_sigterm_handler = ray_utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = theirs
        if threading.current_thread() is threading.main_thread():  # no other may
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # Ray's core puts its own before Python's


def began_here() -> bool:
    """Return True if this process has started the Ray that it uses, which then ends with it; no public name says so."""
    node = ray_worker._global_node
    return node is not None and bool(node.is_head())


def raylet() -> psutil.Process | None:
    """Return the raylet of this node; None if its processes are hidden from this one.

    Ray tells nobody its process id. Its name and the socket in its command line are what it is known by.
    """
    here = ray.get_runtime_context().get_node_id()
    sockets = [node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here]
    for process in psutil.process_iter(["name", "cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if process.info["name"] == "raylet" and any(socket in command for socket in sockets):
            return process
    return None


def gcs() -> psutil.Process | None:
    """Return the GCS, Ray's memory of the cluster, if it runs on this machine; None otherwise, or if it is hidden.

    It is known by the session, whose name is in its command line as in that of the raylet.
    """
    node = raylet()
    session = re.search(r"session_[0-9-]+_[0-9-]+_[0-9_]+", " ".join(node.cmdline())) if node is not None else None
    for process in psutil.process_iter(["name", "cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if session is not None and process.info["name"] == "gcs_server" and session[0] in command:
            return process
    return None


def is_at_work(title: str) -> bool:
    """Return True if a process of this title runs a task or an actor: Ray's own, and idle ones, have other titles."""
    services = (
        ray_constants.WORKER_PROCESS_TYPE_IDLE_WORKER,
        ray_constants.AGENT_PROCESS_TYPE_DASHBOARD_AGENT,
        ray_constants.AGENT_PROCESS_TYPE_RUNTIME_ENV_AGENT,
    )
    return title.startswith("ray::") and not title.startswith(services)


def send_no_cloud_keys() -> None:
    """Have Ray Tune keep AWS's keys from trials, which need none, and so from a log that others may read.

    The names of the variables that each trial is given stand in a set, and no option changes it.
    """
    # here, since Ray's workers import this module for `access`, and Ray Tune takes them a second
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])


def forget_averages(trial: Any) -> None:
    """Have Ray Tune forget its averages of every number that a trial reported; of a thousand trials they fill 80 MB.

    Nobody reads them, and no option leaves them out.
    """
    trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps = {}, {}


def forget_pickled_error(trial: Any) -> None:
    """Have Ray Tune forget where it has pickled what went wrong in a trial: it loads that as it ends, unasked."""
    trial.run_metadata.pickled_error_filename = None


def cause_in(told: str) -> str:
    """Return type and first line of what went wrong last, from the text that Ray writes beside a trial.

    What Ray has of it besides is a pickle, and none is loaded from a folder that others may reach.
    """
    lines = [line for line in f"\n{told}".rpartition("\nFailure # ")[2].splitlines()[1:] if line.strip()]
    frames = [number for number, line in enumerate(lines) if re.match(r'  File ".*", line \d', line)]
    after = [line for line in lines[frames[-1] if frames else 0 :] if not line.startswith((" ", "\t"))]
    cause = re.sub(r"^(\w+\.)+(?=\w+(:|$))", "", next(iter(after), "no message"))
    if any("OOM killer" in line for line in lines):  # Ray's guess, deep in its text, if a process ends without a word
        return f"{DIED}its process was killed or crashed; the kernel does so if memory runs out"
    died = any("The actor died" in line for line in lines) and not cause.startswith(DIED)
    return f"{DIED}{cause}" if died else cause


@dataclass(frozen=True, slots=True)
class RungEntry:
    """A trial as Ray's ASHA has to know it: it asks for the id alone, and nothing of the loop that it belongs to.

    So a rung can have trials of an earlier run of the search, for which Ray has no object.
    """

    trial_id: str
