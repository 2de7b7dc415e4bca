"""Rows of several trials end to end in lanes of one length, so that little padding is computed."""

import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainables.data.splits import IGNORED, Example

WORTH_IT = 0.95
LONG = 512
"""Tokens of a row from which on it has a lane of its own: joined, it would need a mask, the square of that."""


@dataclass(frozen=True)
class Lanes:
    """The position of each row of a pass.

    Args:
        per_trial: Lanes that each trial has.
        length: Tokens of a lane.
        starts: Each row's lane, counted over all trials, and first position in it; trial after trial.
        lengths: Each trial's rows' lengths, in tokens.
        device: Name of the tensors' device.
    """

    per_trial: int
    length: int
    starts: tuple[tuple[int, int], ...]
    lengths: tuple[tuple[int, ...], ...]
    device: str = "cpu"

    @property
    def joined(self) -> bool:
        """Whether any lane has two rows."""
        return self.per_trial < len(self.lengths[0])

    def inputs(
        self, examples: Sequence[Example], pad_id: int, masked: bool = False
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the model's inputs and labels, all (lanes, length).

        Padding comes after a row, so it needs no attention mask. The first token of a row has no prediction, so its
        label is ``IGNORED``.

        Args:
            examples: The rows.
            pad_id: Token between them.
            masked: Whether a mask keeps the rows of a lane apart, since positions that begin anew do not.
        """
        shape = (len(self.lengths) * self.per_trial, self.length)
        ids, labels, positions = torch.full(shape, pad_id), torch.full(shape, IGNORED), torch.zeros(shape).long()
        for example, (lane, start) in zip(examples, self.starts, strict=True):
            stop = start + len(example.input_ids)
            ids[lane, start:stop] = torch.tensor(example.input_ids)
            labels[lane, start + 1 : stop] = torch.tensor(example.labels[1:])
            positions[lane, start:stop] = torch.arange(stop - start)
        inputs = {"input_ids": ids.to(self.device)}
        if self.joined:
            inputs["position_ids"] = positions.to(self.device)
        if self.joined and masked:
            inputs["attention_mask"] = self.mask
        return inputs, labels.to(self.device)

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """Return which positions each sees, (lanes, 1, length, length): itself and earlier ones of the same row."""
        rows = torch.full((len(self.lengths) * self.per_trial, self.length), -1)
        all_lengths = [length for row_lengths in self.lengths for length in row_lengths]
        for number, (length, (lane, start)) in enumerate(zip(all_lengths, self.starts, strict=True)):
            rows[lane, start : start + length] = number
        return (rows[:, None, :, None] == rows[:, None, None, :]).tril().to(self.device)

    def spread(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return rows (row length, width) at their positions in (lanes, length, width), and zeros between them."""
        lanes = rows[0].new_zeros(len(self.lengths) * self.per_trial, self.length, rows[0].shape[-1])
        for row, (lane, start) in zip(rows, self.starts, strict=True):
            lanes[lane, start : start + len(row)] = row
        return lanes

    @functools.cached_property
    def owners(self) -> torch.Tensor:
        """Return the row number at each position, (lanes, length), counted trial after trial; 0 at padding."""
        row_numbers = torch.zeros(len(self.lengths) * self.per_trial, self.length, dtype=torch.long)
        all_lengths = [length for row_lengths in self.lengths for length in row_lengths]
        for number, (length, (lane, start)) in enumerate(zip(all_lengths, self.starts, strict=True)):
            row_numbers[lane, start : start + length] = number
        return row_numbers.to(self.device)

    @functools.cached_property
    def sources(self) -> torch.Tensor:
        """Return each position's index if a trial's rows were padded to its own longest.

        Returns:
            (trials, per_trial * length), counted over a trial's rows; 0 at padding.
        """
        indices = torch.zeros(len(self.lengths), self.per_trial * self.length, dtype=torch.long)
        rows = ((trial, row) for trial, lengths in enumerate(self.lengths) for row in range(len(lengths)))
        for (trial, row), (lane, start) in zip(rows, self.starts, strict=True):
            position, row_lengths = (lane - trial * self.per_trial) * self.length + start, self.lengths[trial]
            first = row * max(row_lengths)
            indices[trial, position : position + row_lengths[row]] = torch.arange(first, first + row_lengths[row])
        return indices.to(self.device)


def arrange(lengths: Sequence[Sequence[int]], width: int, join: bool, device: str = "cpu") -> Lanes:
    """Lay rows into lanes so that a pass computes as little as possible.

    Lanes are of one length, and a trial has as many as any other; so the trial with the most tokens decides. A row per
    lane is padding to the longest. Each row goes to the emptiest lane, the longest row first.

    Args:
        lengths: Each trial's rows' lengths, in tokens; as many rows of each.
        width: Features of a token. Attention compares every two positions of a lane: beside the twelve ``width ** 2``
            of a block's products a token costs another two ``length * width``.
        join: Whether the model keeps rows of one lane apart.
        device: Device of the tensors.

    Source:
        Graham, Bounds on multiprocessing timing anomalies (1969): longest first is at most a third above the optimum.
    """

    def cost(lanes: int, length: int) -> float:
        return lanes * length * (1 + length / (6 * width))

    rows, longest, most = len(lengths[0]), max(map(max, lengths)), max(map(sum, lengths))
    best = rows, longest, [[(row, 0) for row in range(rows)] for _ in lengths]
    least = WORTH_IT * cost(rows, longest)  # the mask that keeps rows apart costs time, too
    at_least = sorted((cost(lanes, max(longest, math.ceil(most / lanes))), lanes) for lanes in range(1, rows))
    for bound, lanes in at_least if join and longest < LONG else []:
        if bound >= least:
            break
        filled = [_fill(row_lengths, lanes) for row_lengths in lengths]
        length = max(
            start + row_lengths[row]
            for row_lengths, places in zip(lengths, filled, strict=True)
            for row, (_, start) in enumerate(places)
        )
        if cost(lanes, length) < least:
            best, least = (lanes, length, filled), cost(lanes, length)
    per_trial, length, filled = best
    starts = ((trial * per_trial + lane, start) for trial, places in enumerate(filled) for lane, start in places)
    return Lanes(per_trial, length, tuple(starts), tuple(map(tuple, lengths)), device)


def _fill(lengths: Sequence[int], lanes: int) -> list[tuple[int, int]]:
    """Return each row's lane and first position in it."""
    ends = [(0, lane) for lane in range(lanes)]
    places = [(0, 0)] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        end, lane = heapq.heappop(ends)
        places[row] = (lane, end)
        heapq.heappush(ends, (end + lengths[row], lane))
    return places
