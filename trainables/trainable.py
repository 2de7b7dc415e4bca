"""The Ray trainable: one configuration is one trial."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import tune as ray_tune

from trainables.finetune import Diverged
from trainables.session import SoloSession
from trainables.spec import TrialSpec, Workload

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class LoraTrainable(ray_tune.Trainable):  # type: ignore[misc]
    """Setup, step, save and load, each a few lines over a ``Session``."""

    def setup(self, config: dict[str, Any], workload: Workload | None = None) -> None:
        """Begin a trial. Base model and data are loaded once per process."""
        if workload is None:
            raise ValueError("LoraTrainable needs a workload; wrap it with ray.tune.with_parameters")
        self.workload = workload
        torch.set_num_threads(workload.threads)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over the next trial in the same process."""
        self.session.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report. A trial that diverges ends here, and says why."""
        facts, learner = self._facts(), self.session.learner
        try:
            report = asdict(self.session.train(math.ceil(self.workload.steps / self.workload.reports)))
        except Diverged as error:
            return facts | {
                "status": "diverged", "error": str(error), "step": learner.step, "tokens": learner.tokens,
                "train_loss": None, "eval_loss": math.nan, "done": True,
            }  # fmt: skip
        facts |= {"status": "running", "error": None, "done": False, **report}
        if learner.done:
            facts |= {"status": "finished", "test_loss": self.session.test_loss(), "done": True}
        return facts

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the session's state."""
        self.session.save(Path(checkpoint_dir) / "session")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue from ``save_checkpoint``'s folder."""
        self.session.load(Path(checkpoint_dir) / "session")

    def cleanup(self) -> None:
        """Give the base back."""
        if hasattr(self, "session"):
            self.session.close()

    def _facts(self) -> dict[str, Any]:
        """What was applied; ranks and alphas as one JSON string, since loggers flatten nested values at a cost."""
        facts = self.session.learner.facts
        allocation = {"ranks": facts.pop("ranks"), "alphas": facts.pop("alphas")}
        return facts | {"seed": self.spec.seed, "allocation": json.dumps(allocation)}

    def _begin(self, config: dict[str, Any]) -> None:
        self.spec = TrialSpec.from_config(config)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.session = SoloSession(self.workload, self.spec, device)
