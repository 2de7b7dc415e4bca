"""How what was measured is kept: a key of all that it depends on, and a file. Imports no torch before tensors are."""

import hashlib
import importlib.util
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from analysis.results import journal
from analysis.results.atomic_write import replacing_file
from strategies.empirical import EVIDENCE_KINDS, IMPORTANCE
from strategies.eva import COMPONENTS
from strategies.measurement import Measured
from trainables.evidence.components import ComponentsFile
from trainables.evidence.tensor_file import read_tensors, write_tensors
from trainables.spec import Workload
from trainables.training.inputs import splits_of

BATCHES = 4
"""Of the training split, on which importance is measured."""


class Format(Protocol):
    """How what was measured is kept."""

    suffix: str

    def key(self, workload: Workload, corpus_sha256: str) -> str:
        """Return a digest of all that it depends on, which is the file's name."""
        ...

    def read(self, path: Path) -> Measured:
        """Read a file of ``write``.

        Raises:
            OSError: The file does not exist.
            ValueError: It is not as it was written; so says ``SafetensorError``, too.
        """
        ...

    def write(self, measured: Measured, path: Path) -> None:
        """Write a file."""
        ...


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """Evidence as text and tensors as tensors; measured anew where the measurement's own file was changed.

    Args:
        measurement: As ``Strategy.measurement``.
    """

    measurement: str
    suffix = ".safetensors"

    def key(self, workload: Workload, corpus_sha256: str) -> str:
        """Return a digest of model, texts, splits, batches, budget, and of the code that measures."""
        parts = [
            self.measurement, self._code_sha256(), workload.base, corpus_sha256, asdict(workload.data),
            splits_of(workload).train_sha256, workload.batch_size, asdict(workload.budget),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _code_sha256(self) -> str:
        module = self.measurement.partition(":")[0]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{self.measurement}: there is no file of module {module}")
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()

    def read(self, path: Path) -> Measured:
        """As ``Format.read``."""
        tensors, text = read_tensors(path)
        return Measured(json.loads(text), tensors)

    def write(self, measured: Measured, path: Path) -> None:
        """As ``Format.write``."""
        write_tensors(path, measured.tensors, json.dumps(measured.evidence, allow_nan=False))


class EvidenceFile:
    """How evidence is kept: as a sealed line of JSON."""

    suffix = ".json"

    def key(self, workload: Workload, corpus_sha256: str) -> str:
        """Return a digest of all that ``measure`` depends on: model, texts, splits, batches."""
        parts = [
            workload.base, corpus_sha256, asdict(workload.data), splits_of(workload).train_sha256,
            workload.batch_size, BATCHES, *EVIDENCE_KINDS,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read(self, path: Path) -> Measured:
        """Read a file of ``write``.

        Raises:
            OSError: The file does not exist.
            ValueError: It is not as it was written.
        """
        return Measured(journal.opened(path.read_bytes(), unsealed=False))

    def write(self, measured: Measured, path: Path) -> None:
        """Write a file."""
        path.write_text(journal.sealed(measured.evidence) + "\n")


FORMATS: Mapping[str, Format] = {IMPORTANCE: EvidenceFile(), COMPONENTS: ComponentsFile()}
"""Keys and files of the measurements that there were before all others; those of earlier searches stay good."""


def format_of(measurement: str) -> Format:
    """Return how a measurement is kept."""
    return FORMATS.get(measurement) or MeasuredFile(measurement)


def keep(measured: Measured, path: Path, form: Format) -> None:
    """Write a file, and its folder; a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path, uuid.uuid4().hex) as aside:  # searches may share a folder of runs
        form.write(measured, aside)
