"""The evidence that strategies score from: measured on the frozen base before any training."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from analysis.results import journal
from strategies import RankBudget
from strategies.base import Evidence, Site
from strategies.empirical import EVIDENCE_KINDS
from strategies.measurement import Measured
from trainables.data.collate import Batch
from trainables.evidence.site_inputs import vectors_of_tokens
from trainables.models.base_model import BaseModel
from trainables.spec import Workload
from trainables.training.inputs import splits_of
from trainables.training.losses import token_losses

BATCHES = 4


def measure(base: BaseModel, batches: Iterable[Batch], budget: RankBudget) -> Measured:
    """Measure gradients and activations on the first batches of the training split.

    ``gradient``: squared Frobenius norm of the loss gradient with respect to the frozen matrix, over d_in. With B = 0
    and the rows of A independent with variance proportional to 1 / d_in, the gradient of B is G A^T, so this is
    proportional to the expected squared gradient that one unit of rank sees at the first step.

    ``activation``: mean square of the site's input over tokens and features.

    ``sensitivity``: mean over the matrix of ``|W * G|``: by how much the loss would change, to first order, without a
    weight.

    ``fisher``: mean over the matrix of the squared gradient, the diagonal of the empirical Fisher information with a
    batch as its sample.

    Returns:
        Evidence: kind -> site name -> mean over batches.

    Source:
        Gradient: Wang et al., LoRA-GA (arXiv 2407.05000), for the role of G. Activation: EVA (arXiv 2410.07170), here
        without the decomposition. Sensitivity: GoRA (arXiv 2502.12171), which averages gradients before the product;
        here it is the mean of products, so that no second copy of the gradients is kept. Fisher: FIM-LoRA
        (arXiv 2605.16800).
    """
    return Measured(measure_batches(base.model, base.sites, list(itertools.islice(batches, BATCHES))))


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


def measure_batches(model: Any, sites: Sequence[Site], batches: Sequence[Batch]) -> Evidence:
    """Measure on given batches; the model has no gradients, before and after."""
    modules = dict(model.named_modules())
    evidence = {kind: dict.fromkeys((site.name for site in sites), 0.0) for kind in EVIDENCE_KINDS}
    mask: list[torch.Tensor] = []
    squares_of: dict[str, list[float]] = {}  # of each call: some blocks are used twice

    def hook(name: str) -> Any:
        def record(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            tokens = vectors_of_tokens(inputs[0].detach(), mask[0]).float()
            squares_of.setdefault(name, []).append(tokens.square().mean().item())

        return record

    handles = [modules[site.name].register_forward_pre_hook(hook(site.name)) for site in sites]
    parameters = [modules[site.name].weight for site in sites]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for batch in batches:
            mask[:] = [batch.attention_mask.bool()]
            squares_of.clear()
            loss = token_losses(model, batch.inputs, batch.labels, False)[0].mean()
            for site, weight, slope in zip(sites, parameters, torch.autograd.grad(loss, parameters), strict=True):
                calls = squares_of.get(site.name, [0.0])
                evidence["activation"][site.name] += sum(calls) / len(calls) / len(batches)
                squares = slope.float().square()
                evidence["gradient"][site.name] += squares.sum().item() / site.d_in / len(batches)
                evidence["fisher"][site.name] += squares.mean().item() / len(batches)
                evidence["sensitivity"][site.name] += (weight * slope).float().abs().mean().item() / len(batches)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for handle in handles:
            handle.remove()
    return evidence
