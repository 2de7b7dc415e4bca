"""A trial while it trains. The Ray trainable knows only the ``Session`` protocol."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from trainables import adapters
from trainables.base_model import BaseModel
from trainables.batch import collate
from trainables.data import Example, Splits, by_document, mean_loss
from trainables.finetune import Diverged, autocast, evaluate, rng_state, set_rng_state, token_losses
from trainables.inputs import base_of, splits_of
from trainables.learner import Learner, StepReport
from trainables.learners import learner_of
from trainables.spec import TrialSpec, Workload


class Session(Protocol):
    """A trial that trains, is measured, and can be put away and taken up again."""

    @property
    def learner(self) -> Learner:
        """What belongs to the trial alone."""
        ...

    @property
    def splits(self) -> Splits:
        """The examples."""
        ...

    def train(self, steps: int) -> StepReport:
        """Train up to ``steps`` more steps and evaluate.

        Raises:
            Diverged: A loss or gradient is not finite.
        """
        ...

    def test_losses(self) -> list[float]:
        """Return the summed loss of each example of the test split."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        ...

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: It belongs to another base or allocation.
        """
        ...

    def close(self) -> None:
        """Give everything back; the base is as it was before."""
        ...


def next_report(session: Session, again: bool = False) -> dict[str, Any]:
    """Train a trial to its next report, and return what Ray sees of it.

    Args:
        session: The trial.
        again: Whether it was taken up again. Where it stands at a report, it is measured there and not trained: the
            interruption may have come between that report and what was decided about it.

    Ranks and alphas are one JSON string, since loggers flatten nested values at a cost, and so are the test split's
    documents: summed loss and learned tokens of each. A trial that diverges is done.
    ``report`` counts a trial's reports from 1, those before an interruption included.
    """
    learner = session.learner
    interval = math.ceil(learner.workload.steps / learner.workload.reports)
    found: dict[str, Any] = {"seed": learner.spec.seed, "error": None}
    try:
        since = learner.step % interval
        judged = again and learner.step and (learner.done or not since)
        report = asdict(session.train(0 if judged else interval - since))
        found |= {"status": "running", "done": False, **report}
        if learner.done:
            losses = session.test_losses()
            documents = by_document(session.splits.test, losses)
            test_loss = mean_loss(session.splits.test, losses)
            if not math.isfinite(test_loss):  # which no search decides by, but whoever compares must know
                found["error"] = str(learner.diverged("test loss", test_loss))
            found |= {"status": "finished", "done": True, "test_loss": test_loss}
            found |= {"test_documents": json.dumps(list(documents.values()))}
    except Diverged as error:
        found |= {
            "status": "diverged", "done": True, "error": str(error), "step": learner.step, "tokens": learner.tokens,
            "seconds": learner.seconds, "train_loss": None, "eval_loss": math.nan,
        }  # fmt: skip
    facts = learner.facts  # after training, which may have changed the ranks
    allocation = {"ranks": facts.pop("ranks"), "alphas": facts.pop("alphas")}
    report_number = math.ceil(learner.step / interval)
    return {**facts, "allocation": json.dumps(allocation), "report": report_number, **found}


class SoloSession:
    """One trial on a model of its own process: PEFT, ``torch.optim.AdamW`` and a plain loop."""

    def __init__(self, workload: Workload, spec: TrialSpec) -> None:
        """Attach the planned adapter.

        Raises:
            AllocationMismatch: What PEFT built is not what was planned.
        """
        self.base: BaseModel = base_of(workload)
        self.splits = splits_of(workload)
        self.model: Any = adapters.attach_planned(self.base, workload, spec)
        self.learner = learner_of(workload, spec, self.base, adapters.read(self.model), len(self.splits.train))
        self.after_step: Callable[[], None] = lambda: None  # may save

    def train(self, steps: int) -> StepReport:
        """Train up to ``steps`` more steps and evaluate."""
        learner = self.learner
        set_rng_state(learner.device, learner.rng)
        adapters.set_dropout(self.model, True)
        for _ in range(min(steps, learner.workload.steps - learner.step)):
            began = time.perf_counter()
            self._step()
            learner.rng = rng_state(learner.device)
            learner.spent(time.perf_counter() - began)
            self.after_step()
        adapters.set_dropout(self.model, False)
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
        adapters.detach(self.model)

    def _step(self) -> None:
        """Do one optimizer step."""
        learner = self.learner
        examples = [self.splits.train[index] for index in learner.order[learner.step]]
        batch = collate(examples, self.base.pad_id, self.base.device)
        with autocast(self.base.device):
            loss = token_losses(self.base.model, batch.inputs, batch.labels, self.base.separable_head)[0].sum()
        (loss / batch.learned_tokens).backward()  # type: ignore[no-untyped-call]
        learner.advance(loss.item(), batch.learned_tokens)

    def _evaluate(self, examples: Sequence[Example]) -> list[float]:
        return evaluate(self.base, examples, self.learner.workload.batch_size)
