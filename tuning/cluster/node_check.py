"""Before a search on a Ray that it joined: all nodes see one runs folder and one base, and want a token."""

import contextlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.models.identity import identity
from trainables.spec import Workload
from tuning.cluster import access
from tuning.plan.search_plan import SearchPlan

PATIENCE_SECONDS = 600.0
LISTENS_HERE = {"127.0.0.1", "::1"}  # a node of any other address listens on every network card


@dataclass(frozen=True, slots=True)
class View:
    """What a node sees.

    Args:
        shared: Whether the file is there that was just written in the runs folder.
        base: ``identity`` of what lies where the base should; empty if that is no model.
        token: Whether its Ray asks for a token.
    """

    shared: bool
    base: str
    token: bool


def look(probe: str, model: str) -> View:
    """Return what the node sees on which this is called."""
    try:
        base = identity(model)
    except (ValueError, OSError):
        base = ""
    return View(Path(probe).is_file(), base, os.environ.get(access.MODE, "").lower() == "token")


def check(plan: SearchPlan, workload: Workload) -> None:
    """Ask every node that is there now; nothing stays written.

    One that joins later is caught all the same: whoever loads the base checks it (``trainables.training.inputs``), Ray
    Tune fails a trial whose node does not see the run's folder, and a Ray that wants a token lets none in without it.

    Args:
        plan: The search; it is about to use a Ray that others may use, too.
        workload: Knows which base is meant.

    Raises:
        ValueError: Names the first node that is not as it should be, and the flag and value that it fails.
    """
    runs = Path(plan.runs_dir).resolve()
    made = [folder for folder in (runs, *runs.parents) if not folder.exists()]
    runs.mkdir(parents=True, exist_ok=True)
    probe = runs / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        for node, view in _ask(plan, str(probe), workload.model):
            judge(plan, workload, node["NodeManagerAddress"], view)
    finally:
        probe.unlink()
        with contextlib.suppress(OSError):  # somebody else has begun to use it
            for folder in made:
                folder.rmdir()


def _ask(plan: SearchPlan, probe: str, model: str) -> list[tuple[Mapping[str, Any], View]]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [_on(node["NodeID"]).remote(probe, model) for node in nodes]
    _, silent = ray.wait(asked, num_returns=len(asked), timeout=PATIENCE_SECONDS)
    if silent:
        address = nodes[asked.index(silent[0])]["NodeManagerAddress"]
        raise ValueError(
            f"--ray-address {plan.ray_address}: node {address} did not answer within {PATIENCE_SECONDS:.0f} s; "
            f"see whether it still runs"
        )
    return [(node, view) for node, answer in zip(nodes, asked, strict=True) if (view := _view(plan, node, answer))]


def _on(node_id: str) -> Any:
    affinity = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=affinity)(look)


def _view(plan: SearchPlan, node: Mapping[str, Any], answer: Any) -> View | None:
    """Return what a node answered; nothing if it has left in the meantime, as spot nodes do."""
    try:
        view: View = ray.get(answer)
    except RayError as error:
        if node["NodeID"] not in {other["NodeID"] for other in ray.nodes() if other["Alive"]}:
            return None
        raise ValueError(
            f"--ray-address {plan.ray_address}: node {node['NodeManagerAddress']} cannot run this project's code "
            f"({_last_line(error)}); submit it with --working-dir, or install it there"
        ) from error
    return view


def judge(plan: SearchPlan, workload: Workload, address: str, view: View) -> None:
    """Refuse a node that is not as the search needs it.

    Raises:
        ValueError: Names the node, the flag and the value, and what would be right.
    """
    if not view.token and address not in LISTENS_HERE:
        raise ValueError(
            f"--ray-address {plan.ray_address}: node {address} can be reached from other machines and asks for no "
            f"token; start every node with {access.MODE}=token and the same token"
        )
    if not view.shared:
        raise ValueError(
            f"--runs-dir {plan.runs_dir}: node {address} does not see what is written there; "
            f"give a folder on storage that all nodes share"
        )
    if view.base != workload.base:
        raise ValueError(
            f"--model {plan.model}: node {address} has {'another' if view.base else 'no'} model at {workload.model}; "
            f"put the same folder on every node, or on storage that all share"
        )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]
