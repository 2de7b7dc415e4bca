"""Where a plan's files, folders and servers are: on this machine, and on that of whoever made the plan."""

import glob
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.results.messages import has_secret
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
        ValueError: One is not, or a name may be a path that is not there as well as a hub id.
    """
    if hub.is_hub_id(plan.model):
        hub.check_at_once("model", plan.model, plan.model_revision)
    else:
        files.resolve(plan.model)
    for name in ("dataset", "validation_dataset", "test_dataset"):
        value, flag = getattr(plan, name), name.replace("_", "-")
        if value is None or value in hub.BUILT_IN:
            continue
        if hub.is_hub_id(value):
            hub.check_at_once("dataset", value, plan.dataset_revision if name == "dataset" else None, flag)
        else:
            with located(f"--{flag} {value}"):
                files_here(value)
    if plan.chat_template is not None and plan.template != "none" and not os.path.exists(plan.chat_template):
        raise ValueError(f"--chat-template {plan.chat_template}: no such file; give a file with a Jinja template")


def check_places(plan: SearchPlan) -> None:
    """Check where a search writes to: its folder, and MLflow's address.

    Raises:
        ValueError: The folder cannot be made or written to, or the address has a password.
    """
    _check_folder(plan)
    if plan.mlflow_uri is None and has_secret(os.environ.get("MLFLOW_TRACKING_URI", "")):
        raise ValueError(
            "MLFLOW_TRACKING_URI: a password in it would be saved and logged; leave it out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGPASSWORD"
        )


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


def _check_folder(plan: SearchPlan) -> None:
    """Try whether the runs folder can be made and written to, and leave nothing there."""
    there = os.path.abspath(plan.runs_dir)
    try:
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            raise ValueError(f"--runs-dir {plan.runs_dir}: {there} is not a folder; give one that is or can be made")
        with tempfile.TemporaryFile(dir=there):
            pass
        if any(len(os.fsencode(part)) > os.pathconf(there, "PC_NAME_MAX") for part in Path(plan.runs_dir).parts):
            raise ValueError(f"--runs-dir {plan.runs_dir}: a name in it is too long for the disk; give a shorter one")
    except OSError as error:
        raise ValueError(
            f"--runs-dir {plan.runs_dir}: {error.strerror}; give a folder that can be written to"
        ) from error
