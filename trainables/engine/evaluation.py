"""Losses of rows in packed passes, and finished adapters measured together in them."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from trainables.adapters.adapter import Adapter
from trainables.data.splits import Example, mean_loss
from trainables.engine.adapter_store import AdapterStore
from trainables.engine.sequence_packing import LaneInputs, Lanes, arrange
from trainables.engine.stacked_adapters import adapted
from trainables.models.base_model import BaseModel
from trainables.models.transformers_compat import rows_known
from trainables.training.losses import by_length, losses_at


def lane_losses(base: BaseModel, rows: Sequence[Example], lanes: Lanes) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each learned token, in nats, row after row as they lie in the lanes, and the row of each.

    After those of the last row may come some that belong to none.
    """
    inputs = lanes.inputs(rows, base.pad_id, base.joining == "mask")
    return _losses(base, inputs, lanes.joined), inputs.owners


def row_losses(base: BaseModel, inputs: LaneInputs, joined: bool, rows: int) -> torch.Tensor:
    """Return the summed loss of each row, in nats, shape (rows,).

    Args:
        base: The frozen base.
        inputs: On its device.
        joined: Whether any lane has two rows.
        rows: How many there are.
    """
    losses = _losses(base, inputs, joined)
    return losses.new_zeros(rows + 1).index_add(0, inputs.owners, losses)[:-1]


def _losses(base: BaseModel, inputs: LaneInputs, joined: bool) -> torch.Tensor:
    with rows_known(joined):
        return losses_at(base.model, inputs.model, inputs.places, inputs.targets, base.separable_head)


@torch.inference_mode()
def losses_of(
    base: BaseModel, adapters: Sequence[Adapter], examples: Sequence[Example], rows: int, exact: bool = False
) -> list[list[float]]:
    """Return each adapter's summed loss of each example, in nats.

    Args:
        base: The frozen base.
        adapters: Trained ones; they stay what they are. None of them measures the base alone, as one.
        examples: The rows.
        rows: Examples of an adapter in one pass.
        exact: Whether to compute in float32 also where trials are trained in bfloat16.
    """
    order, width = by_length(examples), min(site.d_in for site in base.sites)
    models = len(adapters) or 1
    store = AdapterStore.of([_copied(adapter, base.device) for adapter in adapters], planes=1)
    factors = store.factors(slice(0, len(adapters)))
    parts = []
    with contextlib.nullcontext() if exact else base.autocast(), adapted(base.model, factors):
        for start in range(0, len(order), rows):
            part = [examples[index] for index in order[start : start + rows]]
            lengths = [[len(example.input_ids) for example in part]] * models
            lanes = arrange(lengths, width, base.joining is not None, base.device)
            inputs = lanes.inputs(part * models, base.pad_id, base.joining == "mask")
            parts.append(row_losses(base, inputs, lanes.joined, len(part) * models).view(models, -1))
    columns = sorted(range(len(order)), key=order.__getitem__)
    in_order: list[list[float]] = torch.cat(parts, 1)[:, columns].tolist()
    return in_order


def exact_loss(base: BaseModel, adapter: Adapter, examples: Sequence[Example], rows: int) -> float:
    """Return an adapter's mean loss per learned token in float32, in nats; arguments as of ``losses_of``."""
    return mean_loss(examples, losses_of(base, [adapter], examples, rows, exact=True)[0])


def base_loss(base: BaseModel, examples: Sequence[Example], rows: int) -> float:
    """Return the untouched base's mean loss per learned token, in nats, as trials are measured."""
    return mean_loss(examples, losses_of(base, [], examples, rows)[0])


def _copied(adapter: Adapter, device: str) -> Adapter:
    """Return an adapter that a stack may take apart, on a device, in float32."""
    factors = {
        name: (a.detach().to(device, torch.float32).clone(), b.detach().to(device, torch.float32).clone())
        for name, (a, b) in adapter.factors.items()
    }
    return replace(adapter, factors=factors)
