"""Facts of a search that a report shows and its rows do not have."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

PLANNED = {"dataset_size": "train_examples", "epochs": "epochs", "margin": "margin", "model": "model",
           "dataset": "dataset", "corpus_sha256": "corpus_sha256", "model_revision": "model_revision",
           "dataset_revision": "dataset_revision"}  # fmt: skip
FACT_NAMES = ("engine", "resource_events", "command", "continued", "changes", "versions", "importance", "shrink",
         "revision", "base_sha256", "looks", "seconds")  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReportHeader:
    """Facts of a search that its rows do not have.

    Args:
        generated: Date and time, as printed.
        dataset_size: Training examples.
        epochs: Passes over them.
        margin: Difference in test loss that does not matter, in nats per token.
        model: Base model that was adapted.
        dataset: Data that it was trained on.
        corpus_sha256: Digest of all texts.
        model_revision: Its commit on a hub.
        dataset_revision: That of the data.
        base_sha256: Digest of the model's files, or its hub id.
        revision: The commit of the code that ran.
        engine: How the trials were trained.
        resource_events: Messages about what did not fit into memory.
        looks: Number of plans that were judged on the test split, one after the other.
        command: Command that started the search.
        continued: Commands that resumed it.
        changes: What was changed when it was resumed, in words.
        versions: Library -> its version.
        importance: Strategy -> parameter -> its share of the total importance for the loss.
        evidence: Kind of evidence -> site -> value, as measured before training.
        shrink: The winner cut to fewer parameters: ``fraction``, ``params`` and ``test_loss`` of each size.
        seconds: What the search was busy with -> its seconds of wall time.
    """

    generated: str
    dataset_size: int | None = None
    epochs: float | None = None
    margin: float = 0.01
    model: str | None = None
    dataset: str | None = None
    corpus_sha256: str | None = None
    model_revision: str | None = None
    dataset_revision: str | None = None
    base_sha256: str | None = None
    revision: str | None = None
    engine: str | None = None
    resource_events: Sequence[str] = ()
    looks: int = 0
    command: str | None = None
    continued: Sequence[str] = ()
    changes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shrink: Sequence[Mapping[str, int | float]] = ()
    evidence: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run_dir: Path, generated: str) -> Self:
        """Read ``plan.json`` and, if it is there, ``facts.json`` of a run.

        Raises:
            ValueError: There is no plan, or one of the files cannot be read or has a value of a wrong kind.
        """
        try:
            plan = json.loads((run_dir / "plan.json").read_text(encoding="utf-8"))
            if not isinstance(plan, dict):
                raise ValueError("not a mapping")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{run_dir / 'plan.json'}: no plan that can be read; RUN_DIR must be the folder of a run ({error})"
            ) from error
        planned = {name: plan[key] for name, key in PLANNED.items() if plan.get(key) is not None}
        facts = _read(run_dir / "facts.json")
        run_facts = {name: facts[name] for name in FACT_NAMES if name in facts}
        try:
            return cls(generated=generated, **planned, **run_facts, evidence=_read(run_dir / "evidence.json"))
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0])
            file = {**dict.fromkeys(PLANNED, "plan.json"), "evidence": "evidence.json"}.get(name, "facts.json")
            raise ValueError(
                f"{run_dir / file}: {PLANNED.get(name, name)}: {problem['msg']}, got {str(problem['input'])[:40]!r}"
            ) from error


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file's mapping; an empty one if there is no file."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    return content
