"""What was found out about a plan, saved beside it for the report."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "facts.json"
LIBRARIES = ("ray", "torch", "transformers", "peft", "optuna", "mlflow")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a plan, as ``facts.json`` has it.

    Args:
        search_id: Unique among all searches, whatever their names.
        base_params: Parameters of the base model.
        base_sha256: Identity of the base model: of its files, or a hub id.
        budget_params: Trainable parameters that a trial may spend.
        command: What started the search.
        versions: Of the libraries that matter.
        engine: How trials are trained, in words.
        continued: Commands that took it up again.
        changes: What was allowed to differ then, in words.
        resource_events: What memory did not allow.
        importance: Strategy -> parameter -> its share in what decided the loss.
        shrink: The winner cut to fewer parameters.
    """

    search_id: str
    base_params: int
    base_sha256: str
    budget_params: int
    command: str
    versions: Mapping[str, str]
    engine: str
    continued: Sequence[str] = ()
    changes: Sequence[str] = ()
    resource_events: Sequence[str] = ()
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shrink: Sequence[Mapping[str, float]] = ()

    def save(self, folder: Path) -> None:
        """Write the file; a reader sees the old one or the new one."""
        aside = folder / f"{FILE}.partial"
        aside.write_text(json.dumps(asdict(self), indent=2) + "\n")
        aside.replace(folder / FILE)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a trial does."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
