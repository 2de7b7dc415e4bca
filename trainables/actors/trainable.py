"""The Ray trainable: one configuration is one trial, on a model of its own process."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from analysis.results.trial_config import TrialConfig
from trainables.actors.checkpoint_guard import Unpickled
from trainables.spec import TrialSpec, Workload
from trainables.training.checkpoint import SESSION
from trainables.training.session import next_report
from trainables.training.solo import SoloSession
from trainables.training.stop_signal import Listener

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class LoraTrainable(Unpickled):
    """Setup, step, save and load, each a few lines over a ``Session``."""

    def setup(
        self,
        config: dict[str, Any],
        workload: Workload | None = None,
        checkpoints: Mapping[str, str] = MappingProxyType({}),
        stopped: str | None = None,
    ) -> None:
        """Begin a trial. Base model and data are loaded once per process.

        Args:
            config: Ray's.
            workload: What all trials share.
            checkpoints: Trial id -> where an earlier run of the search left it.
            stopped: Folder of the search for trials that it stops before their end.
        """
        if workload is None or stopped is None:
            raise ValueError("LoraTrainable needs workload and stopped; wrap it with ray.tune.with_parameters")
        self.workload, self.checkpoints, self.again = workload, checkpoints, False
        self.listener = Listener(stopped)
        torch.set_num_threads(workload.threads)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over the next trial in the same process."""
        self.session.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report. A trial that diverges ends here, and says why."""
        again, self.again = self.again, False
        report = next_report(self.session, again)
        self._listen(at_once=True)
        return report

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the session's state."""
        self.session.save(Path(checkpoint_dir) / SESSION)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue from ``save_checkpoint``'s folder."""
        self.session.load(Path(checkpoint_dir) / SESSION)
        self.again = False

    def cleanup(self) -> None:
        """Give the base back."""
        if hasattr(self, "session"):
            self.session.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self.session = SoloSession(self.workload, TrialSpec.from_config(trial := TrialConfig.from_ray(config)))
        self.session.after_step = self._listen
        checkpoint = self.checkpoints.get(trial.trial_id)
        if checkpoint is not None:
            self.load_checkpoint(checkpoint)
        self.again = checkpoint is not None

    def _listen(self, at_once: bool = False) -> None:
        self.listener.listen(self.trial_name, self.session, at_once)
