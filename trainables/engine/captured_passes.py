"""Passes that a device has done before: captured, and asked for again at once."""

from collections import Counter
from collections.abc import Callable, Collection

import torch

from analysis.results.messages import first_line
from trainables.models.device import Graphs

WARM_UP = 2
"""Passes of a kind that are done as usual before one is captured: it would be no gain for fewer."""
MOST = 32
"""Kinds that are kept; the one that was wanted longest ago gives way."""

Work = Callable[[], torch.Tensor]


class CapturedPasses:
    """Does passes, those of a kind that has come before by their graph.

    A kind is all that a pass depends on but numbers in memory that stays where it is: shapes, addresses, what is done.
    The first thing that it names is that memory, as ``AdapterStore.memory``.

    Args:
        graphs: Captures; None does all passes as usual.
        events: Is told, in words, if passes are captured no more.
    """

    def __init__(self, graphs: Graphs | None, events: list[str]) -> None:
        self._graphs, self._events = graphs, events
        self._times: Counter[tuple[object, ...]] = Counter()
        self._replays: dict[tuple[object, ...], Work] = {}
        self.captured, self.replayed = 0, 0

    @property
    def captures(self) -> bool:
        """Whether passes are captured, so that all that they are given must come to memory that stays."""
        return self._graphs is not None

    def do(self, kind: tuple[object, ...], work: Work) -> torch.Tensor:
        """Return the result of a pass.

        Args:
            kind: Of the pass.
            work: Does it; between two of one kind nothing differs in what it asks of the device.
        """
        if self._graphs is None:
            return work()
        replay = self._replays.pop(kind, None)
        if replay is None:
            self._times[kind] += 1
            if self._times[kind] <= WARM_UP:
                return self._graphs.warm_up(work)
            replay = self._captured(work)
            if replay is None:
                return work()
        self._replays[kind] = replay  # the last of them is the one wanted last
        if len(self._replays) > MOST:
            self._replays.pop(next(iter(self._replays)))
        self.replayed += 1
        return replay().clone()  # the next one writes its result to the same place

    def keep(self, memories: Collection[int]) -> None:
        """Forget the passes over all other memory."""
        self._replays = {kind: replay for kind, replay in self._replays.items() if kind[0] in memories}
        self._times = Counter({kind: times for kind, times in self._times.items() if kind[0] in memories})
        if self._graphs is not None and not self._replays:
            self._graphs.forget()

    def stop(self, reason: str) -> bool:
        """Do all passes as usual from now on; return False if they have been all along.

        Args:
            reason: Why.
        """
        if self._graphs is None:
            return False
        self._events.append(f"passes are no CUDA graphs any more: {reason}")
        self._graphs = None
        self._replays.clear()
        self._times.clear()
        return True

    def _captured(self, work: Work) -> Work | None:
        assert self._graphs is not None
        try:
            replay = self._graphs.capture(work)
        except Exception as error:  # whatever a driver, a kernel or a model's code raises: no pass has been done yet
            self.stop(f"one could not be captured ({first_line(error)}); memory that it had may stay taken")
            return None
        self.captured += 1
        return replay
