"""Where a plan's files, folders and servers are: on this machine, and on that of whoever made the plan."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.data.locations import files_here, located
from trainables.models import files, hub
from trainables.models.hub import BUILT_IN
from tuning.plan.search_plan import SearchPlan

PLACES = ("runs_dir", "mlflow_uri", "ray_address", "dashboard_host")
"""Choices of folders and servers, which say nothing about what is searched."""
FILES = ("model", "dataset", "validation_dataset", "test_dataset", "chat_template")
"""Choices that may be a file, a folder or a pattern of files."""
SQLITE = "sqlite:///"


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
    if not _is_of_a_run(values) or _is_mine(config, values):
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


def _is_of_a_run(values: Mapping[str, Any]) -> bool:
    """Return True for what a search has saved: it alone has a name and a digest, and all of ``PLACES``."""
    said = (values.get(name) for name in ("name", "runs_dir", "corpus_sha256"))
    return all(isinstance(value, str) for value in said) and values.keys() >= set(PLACES)


def _is_mine(config: str, values: Mapping[str, Any]) -> bool:
    """Return True if a plan lies in the folder of its run, and is this user's."""
    try:
        there = Path(values["runs_dir"], values["name"]).resolve()
        return Path(config).resolve().parent == there and os.stat(config).st_uid == os.getuid()
    except (OSError, ValueError):
        return False
