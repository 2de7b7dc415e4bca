"""What trials and hosts rely on in Ray without Ray's promise; ``tuning/cluster/ray_compat.py`` has the rest of it."""

from pathlib import Path
from typing import Any

UNHANDLED_STAY_QUIET = {"RAY_IGNORE_UNHANDLED_ERRORS": "1"}
"""Setting by which an error in a call whose answer nobody waits for prints no traceback."""
DEVICES_STAY_VISIBLE = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Setting by which a process that asks for no GPU sees those that it would see without Ray."""


def folder_of(checkpoint: Any) -> Path:
    """Return the folder of what Ray restores a trial from: a path, a ``Checkpoint``, or a result with one.

    Ray Tune's loop passes the last, whose class is private.
    """
    checkpoint = getattr(checkpoint, "checkpoint", checkpoint)
    return Path(getattr(checkpoint, "path", checkpoint))


def pickle_in(folder: Path) -> Path:
    """Return the file that Ray would load as a pickle if it were in a checkpoint's folder.

    That of a trainable which returns a dictionary; whether one does, Ray finds out from this file alone.
    """
    from ray.tune.trainable.trainable import _DICT_CHECKPOINT_FILE_NAME  # here, since hosts do without Ray Tune

    return folder / str(_DICT_CHECKPOINT_FILE_NAME)
