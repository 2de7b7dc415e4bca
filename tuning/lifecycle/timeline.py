"""Where a search's wall time goes: stage after stage, from the start of its process to the end of its report."""

import logging
import time
from collections.abc import Callable, Mapping
from enum import StrEnum

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """What a search is busy with; one begins as another ends."""

    IMPORTS = "imports"
    """From the process's start until its libraries are loaded."""
    CHECKS = "checks"
    """Whatever is looked at before the first trial: model, texts, disk, versions, and what an earlier run left."""
    RAY = "ray"
    """Until a Ray is started or joined, and has room for a trial."""
    LOADING = "loading"
    """Until hosts are asked to load the base. They do so while the search goes on; who needs one waits in its own
    stage."""
    MEASURING = "measuring"
    """How many trials share a device, and what strategies score from."""
    FIRST_STEP = "first_step"
    """From the start of the trials until the first report of any."""
    TRIALS = "trials"
    CONFIRMATION = "confirmation"
    CONTROLS = "controls"
    REPORT = "report"
    """Tables, adapter and report, and waiting for MLflow."""


class Timeline:
    """Measures stages, of which there is always one.

    Args:
        stage: What the search is busy with now.
        elapsed_seconds: For how long it has been.
        clock: Returns seconds, and never less than before.
        entered: Hears of each stage that begins.
    """

    def __init__(
        self,
        stage: Stage,
        elapsed_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        entered: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        self.stage, self._clock, self._tell = stage, clock, entered
        self._entered = clock() - elapsed_seconds
        self._ended: dict[str, float] = {}

    def enter(self, stage: Stage) -> None:
        """End the stage that goes on, and begin another; the same again goes on."""
        if stage == self.stage:
            return
        now = self._clock()
        log.info("%s took %.3f s", self.stage, now - self._entered)
        self._add(self.stage, now - self._entered)
        self.stage, self._entered = stage, now
        self._tell(stage)

    def add(self, earlier: Mapping[str, float]) -> None:
        """Count what an earlier run of the search took.

        Args:
            earlier: Stage -> seconds; a name that is no stage any more is kept.
        """
        for name, seconds in earlier.items():
            self._add(name, seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds so far, in the order of ``Stage``; stages that have not been are left out."""
        so_far = {**self._ended, self.stage: self._ended.get(self.stage, 0.0) + self._clock() - self._entered}
        names = dict.fromkeys([*(stage.value for stage in Stage), *so_far])
        return {name: round(so_far[name], 3) for name in names if name in so_far}

    def _add(self, name: str, seconds: float) -> None:
        self._ended[name] = self._ended.get(name, 0.0) + seconds
