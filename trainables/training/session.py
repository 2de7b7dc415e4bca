"""A trial that trains, as its Ray trainable drives it, and its reports. Imports no torch."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from analysis.results.trial_config import Status
from trainables.data.splits import Splits, by_document, mean_loss

if TYPE_CHECKING:  # processes that only ask for a report, such as proxies, must not load torch
    from trainables.training.trial_state import Learner


class Diverged(RuntimeError):
    """A loss or gradient is not finite. The message names step, learning rate and dtype."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What Ray and MLflow receive after some steps.

    Args:
        step: Optimizer steps done.
        tokens: Learned tokens seen, repeats counted.
        train_loss: Mean loss per token since the last report, in nats; None before any step.
        eval_loss: Mean loss per token on the validation split.
        seconds: Time spent training and evaluating.
        tokens_per_second: Learned tokens a second of training, since the last report; None before any step.
        peak_bytes: Largest GPU memory, or the process's largest resident set on CPU.
    """

    step: int
    tokens: int
    train_loss: float | None
    eval_loss: float
    seconds: float
    tokens_per_second: float | None
    peak_bytes: int


class Session(Protocol):
    """A trial that can be trained, evaluated, saved and resumed."""

    @property
    def learner(self) -> "Learner":
        """The trial's own state."""
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
        """Release everything; the base is as it was before."""
        ...


def next_report(session: Session, again: bool = False) -> dict[str, Any]:
    """Train a trial to its next report, and return the result for Ray.

    Args:
        session: The trial.
        again: Whether the trial was resumed. If it stands at a report, it is evaluated and not trained: it may have
            been interrupted between that report and the scheduler's decision about it.

    Ranks and alphas are one JSON string, since loggers flatten nested values at a cost, and so are the summed
    loss and the learned tokens of each document of the test split. A trial that diverges is done.
    ``report`` counts a trial's reports from 1, those before an interruption included.
    """
    learner = session.learner
    interval = math.ceil(learner.workload.steps / learner.workload.reports)
    result: dict[str, Any] = {"seed": learner.spec.seed, "error": None}
    try:
        steps_since = learner.step % interval
        at_report = again and learner.step and (learner.done or not steps_since)
        report = asdict(session.train(0 if at_report else interval - steps_since))
        result |= {"status": Status.RUNNING, "done": False, **report}
        if learner.done:
            losses = session.test_losses()
            documents = by_document(session.splits.test, losses)
            test_loss = mean_loss(session.splits.test, losses)
            if not math.isfinite(test_loss):  # no search decides by it, but comparisons need to know
                result["error"] = str(learner.diverged("test loss", test_loss))
            result |= {"status": Status.FINISHED, "done": True, "test_loss": test_loss}
            result |= {"test_documents": json.dumps(list(documents.values()))}
    except Diverged as error:
        result |= {
            "status": Status.DIVERGED, "done": True, "error": str(error),
            "step": learner.step, "tokens": learner.tokens, "seconds": learner.seconds,
            "train_loss": None, "eval_loss": math.nan,
        }  # fmt: skip
    facts = learner.facts  # after training, which may have changed the ranks
    allocation = {"ranks": facts.pop("ranks"), "alphas": facts.pop("alphas")}
    report_number = math.ceil(learner.step / interval)
    return {**facts, "allocation": json.dumps(allocation), "report": report_number, **result}
