"""A trial alone in its process: PEFT and PyTorch's own optimizer, as the packed trials are held against."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainables.adapters import peft_adapter
from trainables.data.collate import collate
from trainables.data.splits import Example, mean_loss
from trainables.models.base_model import BaseModel
from trainables.models.device import device_of
from trainables.spec import TrialSpec, Workload
from trainables.training.inputs import base_of, splits_of
from trainables.training.losses import evaluate, token_losses
from trainables.training.session import StepReport
from trainables.training.trial_state import Learner


class SoloSession:
    """One trial on a model of its own process: PEFT, ``torch.optim.AdamW`` and a plain loop."""

    def __init__(self, workload: Workload, spec: TrialSpec) -> None:
        """Attach the planned adapter.

        Raises:
            AllocationMismatch: What PEFT built is not what was planned.
        """
        self.base: BaseModel = base_of(workload)
        self.splits = splits_of(workload)
        self.model: Any = peft_adapter.attach_planned(self.base, workload, spec)
        self.learner = Learner(workload, spec, self.base, peft_adapter.read(self.model), len(self.splits.train))
        self.after_step: Callable[[], None] = lambda: None  # may save

    def train(self, steps: int) -> StepReport:
        """Train up to ``steps`` more steps and evaluate."""
        learner = self.learner
        device_of(learner.device).set_rng_state(learner.rng)
        peft_adapter.set_dropout(self.model, True)
        for _ in range(min(steps, learner.workload.steps - learner.step)):
            began = time.perf_counter()
            self._step()
            learner.rng = device_of(learner.device).rng_state()
            learner.spent(time.perf_counter() - began)
            self.after_step()
        peft_adapter.set_dropout(self.model, False)
        trained = time.perf_counter()
        eval_loss = mean_loss(self.splits.validation, self._evaluate(self.splits.validation))
        learner.seconds += time.perf_counter() - trained
        return learner.report(eval_loss)

    def test_losses(self) -> list[float]:
        """Return the summed loss of each example of the test split."""
        return self._evaluate(self.splits.test)

    def save(self, folder: Path) -> None:
        """Write a checkpoint; its ``adapter`` folder is an ordinary PEFT adapter."""
        self.learner.save(folder)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.learner.load(folder)

    def close(self) -> None:
        """Take the adapter off the base."""
        peft_adapter.detach(self.model)

    def _step(self) -> None:
        """Do one optimizer step."""
        learner = self.learner
        examples = [self.splits.train[index] for index in learner.order[learner.step]]
        batch = collate(examples, self.base.pad_id, self.base.device)
        with self.base.autocast():
            loss = token_losses(self.base.model, batch.inputs, batch.labels, self.base.separable_head)[0].sum()
        (loss / batch.learned_tokens).backward()  # type: ignore[no-untyped-call]
        learner.advance(loss.item(), batch.learned_tokens)

    def _evaluate(self, examples: Sequence[Example]) -> list[float]:
        return evaluate(self.base, examples, self.learner.workload.batch_size)
