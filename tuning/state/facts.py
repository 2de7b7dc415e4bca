"""What was found out about a plan, saved beside it for the report."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "facts.json"
LIBRARIES = (
    "ray", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "scipy", "optuna", "mlflow",
)  # fmt: skip
PROJECT, PACKAGES = "lora-rank-search", ("analysis", "strategies", "trainables", "tuning")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a plan, as ``facts.json`` has it.

    Args:
        search_id: Unique among all searches, whatever their names.
        base_params: Parameters of the base model.
        base_sha256: Identity of the base model: of its files, or a hub id.
        budget_params: Trainable parameters that a trial may spend.
        command: What started the search.
        versions: Of all that matters.
        revision: The commit of this project's code.
        engine: How trials are trained, in words.
        continued: Commands that took it up again.
        changes: What was allowed to differ then, in words.
        resource_events: What memory did not allow.
        looks: How many plans were judged on the test split, one after the other.
        importance: Strategy -> parameter -> its share in what decided the loss.
        shrink: The winner cut to fewer parameters.
        seconds: Stage of ``tuning.lifecycle.timeline`` -> its seconds of wall time, over all runs of the search.
    """

    search_id: str
    base_params: int
    base_sha256: str
    budget_params: int
    command: str
    versions: Mapping[str, str]
    engine: str
    revision: str | None = None
    continued: Sequence[str] = ()
    changes: Sequence[str] = ()
    resource_events: Sequence[str] = ()
    looks: int = 0
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shrink: Sequence[Mapping[str, float]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the file; a reader sees the old one or the new one."""
        aside = folder / f"{FILE}.partial"
        aside.write_text(json.dumps(asdict(self), indent=2) + "\n")
        aside.replace(folder / FILE)


def versions() -> dict[str, str]:
    """Return the versions of all that decides what a trial does: this project's own with a digest of its code."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    project_version = f"{importlib.metadata.version(PROJECT)}+{digest.hexdigest()[:12]}"
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {PROJECT: project_version, "python": platform.python_version(), **libraries}


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
