"""How trials in processes of their own hear that the search is told to stop, and keep how they stand: by files."""

import time
from collections.abc import Iterable
from pathlib import Path

from trainables.training.checkpoint import LAST, SESSION
from trainables.training.session import Session

NOW = "now"
LOOK_SECONDS = 0.5


class Listener:
    """Looks, between the steps of a trial, whether it is to be saved.

    Args:
        folder: Where the search keeps trials that were stopped.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.looked = Path(folder), 0.0
        self.kept: tuple[str, int] | None = None

    def listen(self, name: str, session: Session, at_once: bool = False) -> None:
        """Save a trial's state if that is wanted, once: a second time might be cut off while it replaces the first.

        Args:
            name: Of the trial, as its folder's.
            session: The trial.
            at_once: Look even if that was done just before.
        """
        now = time.monotonic()
        if at_once or now - self.looked >= LOOK_SECONDS:
            self.looked = now
            wish = (name, _wished_at(self.folder / NOW))
            if wish[1] and wish != self.kept and session.learner.step:
                session.save(self.folder / name / LAST / SESSION)
                self.kept = wish


def _wished_at(wanted: Path) -> int:
    """Return when saving was wanted, in nanoseconds; 0 if it is not. An earlier run, killed, may have left the file."""
    return wanted.stat().st_mtime_ns if wanted.exists() else 0


def keep_all(folder: Path, names: Iterable[str], most_seconds: float) -> None:
    """Have trials keep how they stand; one that takes long is not waited for.

    Args:
        folder: As for ``Listener``.
        names: Of the trials.
        most_seconds: Time to wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted, deadline = folder / NOW, time.monotonic() + most_seconds
    wanted.touch()
    since = _wished_at(wanted)
    try:
        left = [folder / name / LAST / SESSION for name in names]
        while left and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS / 10)
            left = [path for path in left if not path.exists() or path.stat().st_mtime_ns < since]
    finally:
        wanted.unlink()
