"""Where a plan's files, folders and servers are: on this machine, and on that of whoever made the plan."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.results.run_info import PLAN
from trainables.data.locations import files_here, located
from trainables.models import files, hub
from trainables.models.hub import BUILT_IN
from tuning.plan.search_plan import SearchPlan

PLACES = ("runs_dir", "mlflow_uri", "ray_address", "dashboard_host")
"""Choices of folders and servers, which say nothing about what is searched."""
FILES = ("model", "dataset", "validation_dataset", "test_dataset", "chat_template")
"""Choices that may be a file, a folder or a pattern of files."""
SQLITE = "sqlite:///"
RECORD, DIGEST = "record.jsonl", "corpus_sha256"
"""What lies beside a plan that a search has saved, and a key that no other has."""


def absolute(plan: SearchPlan) -> SearchPlan:
    """Return a plan that means the same files wherever it is read; what is no file here stays as it is."""
    files = {name: _absolute(getattr(plan, name)) for name in FILES}
    uri = plan.mlflow_uri
    if uri is not None and uri.startswith(SQLITE):
        uri = SQLITE + os.path.abspath(uri.removeprefix(SQLITE))
    return plan.model_copy(update={**files, "runs_dir": os.path.abspath(plan.runs_dir), "mlflow_uri": uri})


def without_places_of_others(config: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a file's choices, without folders and servers if it is of somebody else's run, and the names left out.

    Args:
        config: The file.
        values: What it says.
    """
    if not _is_of_a_run(config, values) or _is_mine(config, values):
        return dict(values), []
    defaults = {name: SearchPlan.model_fields[name].default for name in PLACES}
    left_out = [name for name in PLACES if values.get(name) not in {None, defaults[name]}]
    return {name: value for name, value in values.items() if name not in PLACES}, left_out


def check_files(plan: SearchPlan) -> None:
    """Look whether the files and folders are there that a plan names, before anything is imported that takes long.

    Raises:
        ValueError: One is not.
    """
    if not hub.is_hub_id(plan.model):
        files.resolve(plan.model)
    for name in ("dataset", "validation_dataset", "test_dataset"):
        value = getattr(plan, name)
        if value is not None and value not in hub.BUILT_IN and not hub.is_hub_id(value):
            with located(f"--{name.replace('_', '-')} {value}"):
                files_here(value)


def _absolute(name: str | None) -> str | None:
    if name is None or name in BUILT_IN:
        return name
    return os.path.abspath(name) if os.path.exists(name) or glob.glob(name, recursive=True) else name


def _is_of_a_run(config: str, values: Mapping[str, Any]) -> bool:
    """Return True for what a search has saved, whatever was left out of it or replaced since."""
    return os.path.basename(config) == PLAN or DIGEST in values or os.path.lexists(Path(config).with_name(RECORD))


def _is_mine(config: str, values: Mapping[str, Any]) -> bool:
    """Return True if a plan lies where it says that its run does, from the root, and is this user's.

    No link is followed: ``/proc/self/cwd`` is wherever it was unpacked.
    """
    try:
        there = os.path.join(values["runs_dir"], values["name"])
        is_there = os.path.isabs(there) and os.path.dirname(os.path.abspath(config)) == os.path.normpath(there)
        return is_there and os.stat(config).st_uid == os.getuid()
    except (OSError, ValueError, TypeError, KeyError):
        return False
