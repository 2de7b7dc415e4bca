"""Ray would load a pickle that somebody planted in a checkpoint's folder; our trainable refuses it."""

import pickle
from pathlib import Path

import pytest
from ray.tune import Checkpoint
from ray.tune.trainable.trainable import _DICT_CHECKPOINT_FILE_NAME

from trainables.actors.packed_trainable import PackedTrainable


class Evil:
    """What a pickle can do: call anything while it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("given", [str, Checkpoint.from_directory])
def test_a_pickle_in_a_checkpoint_is_not_loaded(given, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / _DICT_CHECKPOINT_FILE_NAME).write_bytes(pickle.dumps(Evil(tmp_path / "run")))
    with pytest.raises(ValueError, match="a pickle"):
        PackedTrainable.__new__(PackedTrainable).restore(given(folder))
    assert not (tmp_path / "run").exists()
