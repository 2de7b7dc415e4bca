"""What Transformers reads back from a device in every pass, and need not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import masking_utils

PACKED = "find_packed_sequence_indices"
WARNING = "warn_if_padding_and_no_attention_mask"


@contextmanager
def rows_known(joined: bool) -> Iterator[None]:
    """Have models hear whether rows lie end to end: they would look at the positions, and wait for the device.

    Args:
        joined: Whether a lane may have several rows, so that positions begin anew in it.
    """
    before = getattr(masking_utils, PACKED, None)
    if before is not None:
        setattr(masking_utils, PACKED, _numbers if joined else _none)
    try:
        yield
    finally:
        if before is not None:
            setattr(masking_utils, PACKED, before)


def _none(position_ids: torch.Tensor) -> None:
    """Stand for Transformers' own where each lane has one row."""


def _numbers(position_ids: torch.Tensor) -> torch.Tensor:
    """Return the number of the row in its lane that each position belongs to, as Transformers counts them."""
    before = torch.cat([position_ids[:, :1] - 1, position_ids[:, :-1]], 1)
    return (position_ids - before != 1).cumsum(1)


def without_warning_of_padding(network: Any) -> None:
    """Keep models from looking for padding in their inputs: it comes after a row, where it does no harm."""
    for module in network.modules():
        if hasattr(module, WARNING):
            setattr(module, WARNING, _nothing)


def _nothing(*arguments: Any) -> None:
    """Do nothing."""
