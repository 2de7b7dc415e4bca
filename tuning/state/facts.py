"""What is found out about the code that runs, and the file in which a report finds it."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import tomllib
from pathlib import Path

from analysis.results.atomic_write import replace_text
from analysis.results.run_info import FACTS, RunInfo

LIBRARIES = (
    "ray", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "scipy", "optuna", "mlflow",
)  # fmt: skip
PROJECT, PACKAGES = "lora-rank-search", ("analysis", "strategies", "trainables", "tuning")


def save_facts(info: RunInfo, run_dir: Path) -> None:
    """Write ``facts.json``; a reader sees the old one or the new one."""
    replace_text(run_dir / FACTS, json.dumps(info.facts, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of all that decides what a trial does: this project's own with a digest of its code."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    project_version = f"{own_version()}+{digest.hexdigest()[:12]}"
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {PROJECT: project_version, "python": platform.python_version(), **libraries}


def own_version() -> str:
    """Return this project's version: as it is installed, else as its folder says."""
    try:
        return importlib.metadata.version(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["version"])


def revision() -> str | None:
    """Return the commit that this project's code is from; None if it is not in a checkout of it."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", *PACKAGES]
        changed = subprocess.run(status, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} and changes on it" if changed else commit
