"""The rows of a pass, laid out on the host: while the device still works on the pass before, where it does so alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.splits import Example
from trainables.engine.sequence_packing import LaneNumbers, Lanes, arrange
from trainables.models.base_model import BaseModel
from trainables.models.device import device_of

Rows = Sequence[Sequence[Example]]


@dataclass(frozen=True, slots=True, eq=False)
class PassInputs:
    """What a pass is to be given.

    Args:
        examples: Its rows, trial after trial.
        lanes: Where they lie.
        numbers: What the model is to be given of them.
    """

    examples: list[Example]
    lanes: Lanes
    numbers: LaneNumbers


class Layout:
    """Lays out rows.

    Args:
        base: The base that will compute them.
        longest_row: As of ``arrange``.
    """

    def __init__(self, base: BaseModel, longest_row: int) -> None:
        self._pad_id, self._device, self._joins = base.pad_id, base.device, base.joining is not None
        self._width, self._longest_row = min(site.d_in for site in base.sites), longest_row
        self._ahead: tuple[tuple[tuple[int, ...], ...], PassInputs] | None = None
        self.used_ahead = 0

    def of(self, rows: Rows) -> PassInputs:
        """Return rows laid out: those that were made ready, if they are these.

        Args:
            rows: Of each trial.
        """
        (ready, inputs), self._ahead = self._ahead or ((), None), None
        if inputs is not None and ready == _which(rows):
            self.used_ahead += 1
            return inputs
        return self._made(rows)

    def make_ready(self, rows: Rows) -> None:
        """Lay out rows that will probably be wanted next, if the device works meanwhile: else nothing is gained."""
        if rows and device_of(self._device).queues:
            self._ahead = _which(rows), self._made(rows)

    def _made(self, rows: Rows) -> PassInputs:
        examples = [example for group in rows for example in group]
        lengths = [[len(example.input_ids) for example in group] for group in rows]
        lanes = arrange(lengths, self._width, self._joins, self._device, self._longest_row)
        return PassInputs(examples, lanes, lanes.numbers(examples, self._pad_id))


def _which(rows: Rows) -> tuple[tuple[int, ...], ...]:
    """Return which rows these are; a pack's examples live as long as it does."""
    return tuple(tuple(map(id, group)) for group in rows)
