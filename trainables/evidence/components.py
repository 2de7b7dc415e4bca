"""The result of EVA's measurement, and its file."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from strategies.base import Evidence
from strategies.eva import COMPONENT, MOST_RHO
from trainables.spec import Workload
from trainables.training.inputs import splits_of

ENOUGH = 0.99
SHA256 = "sha256"


@dataclass(frozen=True, slots=True)
class Components:
    """The principal components of every site's input, for EVA.

    Args:
        vectors: Site -> right-singular vectors of its centred input, (components, d_in), the strongest first.
        ratios: Site -> share of the input's variance that each explains, (components,).
    """

    vectors: Mapping[str, torch.Tensor]
    ratios: Mapping[str, torch.Tensor]

    @property
    def evidence(self) -> Evidence:
        """The ratios, a kind of evidence for each component."""
        most = max(map(len, self.ratios.values()))
        return {
            f"{COMPONENT}{k + 1}": {name: float(ratios[k]) for name, ratios in self.ratios.items() if k < len(ratios)}
            for k in range(most)
        }

    def save(self, path: Path) -> None:
        """Write a .safetensors file; a reader sees all of it or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        parts = {"vectors": self.vectors, "ratios": self.ratios}
        tensors = {f"{part}/{name}": t for part, by_site in parts.items() for name, t in by_site.items()}
        save_file(tensors, aside, metadata={SHA256: _digest(tensors)})
        aside.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Components":
        """Read a file of ``save``.

        Raises:
            OSError: The file does not exist.
            SafetensorError: It was cut off.
            ValueError: It was changed.
        """
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        if (metadata or {}).get(SHA256) != _digest(tensors):
            raise ValueError(f"{path}: not as it was written")
        vectors, ratios = (
            {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            for part in ("vectors/", "ratios/")
        )
        return cls(vectors, ratios)


def cache_key(workload: Workload, corpus_sha256: str) -> str:
    """Return a digest of all that ``input_pca.measure`` depends on: model, texts, splits, batches, budget."""
    parts = [
        "eva", workload.base, corpus_sha256, asdict(workload.data), splits_of(workload).train_sha256,
        workload.batch_size, asdict(workload.budget), MOST_RHO, ENOUGH,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(tensors)).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
