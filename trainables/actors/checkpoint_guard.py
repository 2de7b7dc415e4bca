"""A Ray trainable that takes no pickle from a checkpoint's folder."""

from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.trainable.trainable import _DICT_CHECKPOINT_FILE_NAME as PICKLE


class Unpickled(ray_tune.Trainable):  # type: ignore[misc]
    """Ours write tensors and JSON; Ray also accepts pickled dicts as checkpoints, and would load a planted one."""

    def restore(self, checkpoint_path: Any) -> None:
        """Continue from a checkpoint.

        Args:
            checkpoint_path: As Ray passes it: a folder, a ``Checkpoint``, or a result with one.

        Raises:
            ValueError: It contains a pickle.
        """
        checkpoint = getattr(checkpoint_path, "checkpoint", checkpoint_path)
        folder = Path(getattr(checkpoint, "path", checkpoint))
        if (folder / PICKLE).exists():
            raise ValueError(f"{folder / PICKLE}: a pickle, which no trial of this search has written; not loaded")
        super().restore(checkpoint_path)
