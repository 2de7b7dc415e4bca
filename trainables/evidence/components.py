"""EVA's components: the evidence in them, their file, and adapters that begin as them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from strategies.base import Evidence, Site
from strategies.eva import COMPONENT, MOST_RHO, spectra
from strategies.measurement import Measured
from trainables.evidence.tensor_file import read_tensors, write_tensors
from trainables.spec import Workload
from trainables.training.inputs import splits_of

if TYPE_CHECKING:
    import torch

ENOUGH = 0.99
VECTORS, RATIOS = "vectors/", "ratios/"


def evidence_of(ratios: "Mapping[str, torch.Tensor]") -> Evidence:
    """Return shares of the variance, site -> (components,), as a kind of evidence for each component."""
    most = max(map(len, ratios.values()))
    return {
        f"{COMPONENT}{k + 1}": {name: float(shares[k]) for name, shares in ratios.items() if k < len(shares)}
        for k in range(most)
    }


def first_components(site: Site, rank: int, tensors: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """Return the first components of a site's input.

    Raises:
        ValueError: The site has more rank than there are components.

    Source:
        EVA (arXiv 2410.07170); the vectors have length 1, as in PEFT with ``whiten=False``.
    """
    available = len(tensors.get(site.name, ()))
    if available < rank:
        raise ValueError(f"{site.name}: rank {rank}, but {available} components of its input are known")
    return tensors[site.name][:rank]


class ComponentsFile:
    """How components are kept: vectors and ratios of each site, as tensors."""

    suffix = ".safetensors"

    def key(self, workload: Workload, corpus_sha256: str) -> str:
        """Return a digest of all that ``input_pca.measure`` depends on: model, texts, splits, batches, budget."""
        parts = [
            "eva", workload.base, corpus_sha256, asdict(workload.data), splits_of(workload).train_sha256,
            workload.batch_size, asdict(workload.budget), MOST_RHO, ENOUGH,
        ]  # fmt: skip
        if workload.rows_together < workload.batch_size:
            parts.append(workload.rows_together)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read(self, path: Path) -> Measured:
        """Read a file of ``write``, as ``read_tensors``."""
        tensors, _ = read_tensors(path)
        vectors, ratios = (
            {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            for part in (VECTORS, RATIOS)
        )
        return Measured(evidence_of(ratios), vectors)

    def write(self, measured: Measured, path: Path) -> None:
        """Write a file."""
        import torch

        spectrum = spectra(measured.evidence)
        ratios = {name: [shares[name] for shares in spectrum if name in shares] for name in spectrum[0]}
        tensors = {VECTORS + name: vectors for name, vectors in measured.tensors.items()}
        tensors |= {RATIOS + name: torch.tensor(shares, dtype=torch.float64) for name, shares in ratios.items()}
        write_tensors(path, tensors)
