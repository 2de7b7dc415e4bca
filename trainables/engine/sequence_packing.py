"""Rows of several trials end to end in lanes of one length, so that little padding is computed."""

import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from trainables.data.splits import IGNORED, Example
from trainables.models.device import device_of

WORTH_IT = 0.95
IntArray = npt.NDArray[np.int64]
LONG = 512
"""Tokens of a row from which on it has a lane of its own: joined, it would need a mask, the square of that."""


class Entries:
    """Where numbers come onto a device: those of one shape always to the same memory, as a captured graph needs it.

    Args:
        device: Its name.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.memory: dict[tuple[torch.dtype, tuple[int, ...]], torch.Tensor] = {}

    def enter(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers on the device, until others of their dtype and shape come."""
        key = numbers.dtype, tuple(numbers.shape)
        if key not in self.memory:
            with torch.inference_mode(False):  # evaluation enters, too, and training goes on with it
                self.memory[key] = torch.empty_like(numbers, device=self.device)
        return self.memory[key].copy_(numbers, non_blocking=True)


@dataclass(frozen=True, slots=True, eq=False)
class LaneInputs:
    """What a pass computes.

    Args:
        model: The model's inputs, each (lanes, length).
        places: (learned tokens,), the token from which each is predicted, counted over all lanes.
        targets: (learned tokens,), their ids.
        owners: (learned tokens,), their rows, counted trial after trial; after the last row come tokens that fill up.
    """

    model: dict[str, torch.Tensor]
    places: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LaneNumbers:
    """What a pass computes, before it is on the device.

    Args:
        lanes: Where rows lie.
        numbers: Tokens, positions, places, targets and owners, one after the other.
        sizes: How many there are of each.
    """

    lanes: "Lanes"
    numbers: torch.Tensor
    sizes: list[int]

    def entered(self, masked: bool = False, entries: Entries | None = None) -> LaneInputs:
        """Return them on the device.

        Args:
            masked: Whether a mask keeps the rows of a lane apart, since positions that begin anew do not.
            entries: Where numbers come onto the device, if they are to come to the same memory again.
        """
        entries = entries or Entries(self.lanes.device)
        together = torch.split(entries.enter(self.numbers), self.sizes)
        model = {"input_ids": together[0].view(-1, self.lanes.length)}
        if self.lanes.joined:
            model["position_ids"] = together[1].view(-1, self.lanes.length)
        if self.lanes.joined and masked:
            model["attention_mask"] = entries.enter(self.lanes.mask)
        return LaneInputs(model, *together[2:])


@dataclass(frozen=True)
class Lanes:
    """The position of each row of a pass.

    Args:
        per_trial: Lanes that each trial has.
        length: Tokens of a lane.
        starts: Each row's lane, counted over all trials, and first position in it; trial after trial.
        lengths: Each trial's rows' lengths, in tokens.
        device: Name of the tensors' device.
        fills: Whether what is learned is filled up, too, so that few shapes occur.
    """

    per_trial: int
    length: int
    starts: tuple[tuple[int, int], ...]
    lengths: tuple[tuple[int, ...], ...]
    device: str = "cpu"
    fills: bool = False

    @property
    def joined(self) -> bool:
        """Whether any lane has two rows."""
        return self.per_trial < len(self.lengths[0])

    def inputs(
        self, examples: Sequence[Example], pad_id: int, masked: bool = False, entries: Entries | None = None
    ) -> LaneInputs:
        """Return what the model is given, and what is learned of it; arguments as of ``numbers`` and ``entered``."""
        return self.numbers(examples, pad_id).entered(masked, entries)

    def numbers(self, examples: Sequence[Example], pad_id: int) -> LaneNumbers:
        """Return what the model is to be given, and what is learned of it, without the device.

        Padding comes after a row, so it needs no attention mask. The first token of a row has no prediction, so it is
        not learned.

        Args:
            examples: The rows.
            pad_id: Token between them.
        """
        ids, positions = self._filled(pad_id, [e.input_ids for e in examples]), self._filled(0, self._counted)
        labels = self._filled(IGNORED, [(IGNORED, *example.labels[1:]) for example in examples])
        learned = np.flatnonzero(labels != IGNORED)
        filled = device_of(self.device).bucket(len(learned)) if self.fills else len(learned)
        filler = np.zeros(filled - len(learned), dtype=np.int64)
        parts = [
            ids, positions, np.concatenate([learned - 1, filler]), np.concatenate([labels[learned], filler]),
            np.concatenate([self._owners[learned], filler + len(self.starts)]),
        ]  # fmt: skip
        together = device_of(self.device).ready(torch.from_numpy(np.concatenate(parts)))  # one transfer for all
        return LaneNumbers(self, together, [len(part) for part in parts])

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """Return which positions each sees, (lanes, 1, length, length): itself and earlier ones of the same row.

        It is not on the device yet.
        """
        rows = torch.from_numpy(self._owners).view(-1, self.length)
        return (rows[:, None, :, None] == rows[:, None, None, :]).tril()

    def spread(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return rows (row length, width) at their positions in (lanes, length, width), and zeros between them."""
        lanes = rows[0].new_zeros(len(self._owners), rows[0].shape[-1])
        lanes[torch.from_numpy(np.concatenate(self._positions)).to(self.device)] = torch.cat([*rows])
        return lanes.view(-1, self.length, rows[0].shape[-1])

    @functools.cached_property
    def _positions(self) -> list[IntArray]:
        """Return where each row's tokens lie, counted over all lanes."""
        lengths = [length for row_lengths in self.lengths for length in row_lengths]
        firsts = [lane * self.length + start for lane, start in self.starts]
        return [np.arange(first, first + length) for first, length in zip(firsts, lengths, strict=True)]

    @property
    def _counted(self) -> list[IntArray]:
        """Return the positions of each row's tokens in it."""
        return [places - places[0] for places in self._positions]

    @functools.cached_property
    def _owners(self) -> IntArray:
        """Return the row number at each position, counted trial after trial; -1 at padding."""
        return self._filled(-1, [np.full(len(places), number) for number, places in enumerate(self._positions)])

    def _filled(self, empty: int, rows: Sequence[Sequence[int] | IntArray]) -> IntArray:
        """Return rows of numbers where they lie in the lanes, and ``empty`` between them."""
        lanes = np.full(len(self.lengths) * self.per_trial * self.length, empty)
        for places, row in zip(self._positions, rows, strict=True):
            lanes[places[0] : places[0] + len(places)] = row
        return lanes

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


def arrange(
    lengths: Sequence[Sequence[int]], width: int, join: bool, device: str = "cpu", longest_row: int | None = None
) -> Lanes:
    """Lay rows into lanes so that a pass computes as little as possible.

    Lanes are of one length, and a trial has as many as any other; so the trial with the most tokens decides. A row per
    lane is padding to the longest. Each row goes to the emptiest lane, the longest row first.

    Args:
        lengths: Each trial's rows' lengths, in tokens; as many rows of each.
        width: Features of a token. Attention compares every two positions of a lane: beside the twelve ``width ** 2``
            of a block's products a token costs another two ``length * width``.
        join: Whether the model keeps rows of one lane apart.
        device: Device of the tensors.
        longest_row: Tokens of the longest row that there may be; lanes are filled up so that few shapes occur, but no
            row beyond that, for which the model may have no positions. None leaves lanes as short as they can be.

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
    if longest_row is not None:
        fuller = device_of(device).bucket(length)
        length = fuller if per_trial < rows else max(length, min(fuller, longest_row))
    starts = ((trial * per_trial + lane, start) for trial, places in enumerate(filled) for lane, start in places)
    return Lanes(per_trial, length, tuple(starts), tuple(map(tuple, lengths)), device, longest_row is not None)


def _fill(lengths: Sequence[int], lanes: int) -> list[tuple[int, int]]:
    """Return each row's lane and first position in it."""
    ends = [(0, lane) for lane in range(lanes)]
    places = [(0, 0)] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        end, lane = heapq.heappop(ends)
        places[row] = (lane, end)
        heapq.heappush(ends, (end + lengths[row], lane))
    return places
