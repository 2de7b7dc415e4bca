"""The evidence that strategies score from: measured on the frozen base before any training."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from strategies import RankBudget
from strategies.base import Evidence, Site
from strategies.empirical import EVIDENCE_KINDS
from strategies.measurement import Measured, NotMeasurable
from trainables.data.collate import Batch, Batches
from trainables.evidence.kept import BATCHES
from trainables.evidence.site_inputs import vectors_of_tokens
from trainables.models.base_model import BaseModel
from trainables.models.frozen_linear import FrozenLinear
from trainables.training.losses import token_losses

HELD = 2**28
"""Elements of matrices' gradients that are held together where a batch is computed in parts: 1 GB."""


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
    rows = batches.rows if isinstance(batches, Batches) else None
    first = list(itertools.islice(batches, BATCHES))
    return Measured(measure_batches(base.model, base.sites, first, rows, base.separable_head))


def measure_batches(
    model: Any, sites: Sequence[Site], batches: Sequence[Batch], rows: int | None = None, separable_head: bool = False
) -> Evidence:
    """Measure on given batches; the model has no gradients, before and after.

    Args:
        model: The Hugging Face model.
        sites: Where to measure.
        batches: On what.
        rows: Most rows of a pass; a batch of more is computed in parts, of a few sites at a time, and gives the same.
        separable_head: As of ``token_losses``.
    """
    evidence = {kind: dict.fromkeys((site.name for site in sites), 0.0) for kind in EVIDENCE_KINDS}
    parts = [batch.parts(rows or len(batch.input_ids)) for batch in batches]
    for group in [sites] if max(map(len, parts)) == 1 else _held_together(sites):
        with _listening(model, group) as calls:
            for batch, its_parts in zip(batches, parts, strict=True):
                _measure_batch(model, calls, batch, its_parts, separable_head)
                for site in group:
                    for kind, value in calls.measured[site.name].items():
                        evidence[kind][site.name] += value / len(batches)
    return evidence


def _measure_batch(model: Any, calls: "Calls", batch: Batch, parts: Sequence[Batch], separable_head: bool) -> None:
    """Measure the mean loss of a batch, whose gradients are the sums of those of its parts."""
    calls.begin(batch, len(parts) > 1)
    for part in parts:
        calls.begin_part(part)
        losses = token_losses(model, part.inputs, part.labels, separable_head)[0]
        if len(losses):
            (losses.mean() * (len(losses) / batch.learned_tokens)).backward()  # type: ignore[no-untyped-call]
        calls.end_part()
    calls.end()


def _held_together(sites: Sequence[Site]) -> list[list[Site]]:
    """Return the sites in groups whose gradients together are no larger than ``HELD``, or of one site."""
    groups: list[list[Site]] = [[]]
    for site in sites:
        if groups[-1] and sum(other.d_in * other.d_out for other in (*groups[-1], site)) > HELD:
            groups.append([])
        groups[-1].append(site)
    return groups


class Calls:
    """What the sites are given and get back for one batch; some blocks are used twice in a pass.

    A matrix's gradient is measured as soon as it is known, so that those of all are never held together: in a batch of
    one part with the site's last call, otherwise after the last part. A frozen
    matrix has none of its own, and one in four bits could not.

    Args:
        layers: Site -> its layer.
    """

    def __init__(self, layers: Mapping[str, FrozenLinear]) -> None:
        self.layers = layers

    def begin(self, batch: Batch, has_parts: bool) -> None:
        """Begin a batch."""
        self.tokens, self.has_parts = int(batch.attention_mask.sum()), has_parts
        self.slopes: dict[str, torch.Tensor] = {}
        self.measured = {name: dict.fromkeys(EVIDENCE_KINDS, 0.0) for name in self.layers}

    def begin_part(self, part: Batch) -> None:
        """Begin the pass of a part."""
        self.mask = part.attention_mask.bool()
        self.inputs: dict[str, list[float]] = {}
        self.without_tokens: dict[str, NotMeasurable] = {}
        self.awaited: Counter[str] = Counter()

    def take(self, name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        """Note a call of a site: what it was given and what it returned."""
        squares = self.inputs.setdefault(name, [])
        try:
            squares.append(vectors_of_tokens(x.detach(), self.mask).float().square().mean().item())
        except NotMeasurable as error:  # some sites are called once more, for what comes before the first token
            self.without_tokens[name] = error
        self.awaited[name] += 1
        y = y if y.requires_grad else y.requires_grad_()  # of a layer that no embedding reaches
        layer, x = self.layers[name], x.detach()
        y.register_hook(lambda g: self._add(name, layer.weight_gradient(x, g)))  # type: ignore[no-untyped-call]

    def _add(self, name: str, slope: torch.Tensor) -> None:
        """Add up the gradients of a site's calls, and measure their sum after the last."""
        self.awaited[name] -= 1
        self.slopes[name] = self.slopes[name] + slope if name in self.slopes else slope
        if not self.awaited[name] and not self.has_parts:
            self._measure(name)

    def _measure(self, name: str) -> None:
        slope, layer = self.slopes.pop(name), self.layers[name]
        squares = slope.square()
        self.measured[name] |= {
            "gradient": squares.sum().item() / layer.in_features,
            "fisher": squares.mean().item(),
            "sensitivity": (layer.stored() * slope).float().abs().mean().item(),
        }

    def end_part(self) -> None:
        """Add the inputs of a part, as many as it has of the batch's tokens.

        Raises:
            NotMeasurable: No call of a site was given tokens.
        """
        share = int(self.mask.sum()) / self.tokens
        for name, squares in self.inputs.items():
            if not squares:
                raise NotMeasurable(f"{name}: {self.without_tokens[name]}")
            self.measured[name]["activation"] += share * sum(squares) / len(squares)

    def end(self) -> None:
        """Measure what only all parts together tell."""
        for name in list(self.slopes):
            self._measure(name)


@contextmanager
def _listening(model: Any, sites: Sequence[Site]) -> Iterator[Calls]:
    """Hear of all calls of the sites; gradients begin at the embeddings, since the model's own tensors have none."""
    calls = Calls({site.name: FrozenLinear(model.get_submodule(site.name)) for site in sites})

    def hook(name: str) -> Any:
        return lambda module, inputs, output: calls.take(name, inputs[0], output)

    handles = [model.get_submodule(site.name).register_forward_hook(hook(site.name)) for site in sites]
    opening = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output.requires_grad_().clone()  # some models (CTRL) scale it in place
    )
    try:
        yield calls
    finally:
        for handle in (opening, *handles):
            handle.remove()
