"""A trial while it trains. The Ray trainable knows only the ``Session`` protocol."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from strategies import RankAllocation
from strategies.geometry import parameter_efficiency
from trainables import adapters, checkpoint
from trainables.base_model import BaseModel, identity, load
from trainables.data import Splits, collate, load_splits
from trainables.finetune import Diverged, autocast, batch_order, evaluate, learning_rate_factor, loss_sum
from trainables.spec import TrialSpec, Workload


@dataclass(frozen=True, slots=True)
class StepReport:
    """What Ray and MLflow see after some steps.

    Args:
        step: Optimizer steps done.
        tokens: Learned tokens seen, repeats counted.
        train_loss: Mean loss per token since the last report, in nats; None before any step.
        eval_loss: Mean loss per token on the validation split.
        seconds: Time spent training and evaluating.
        tokens_per_second: Learned tokens a second of training, since the last report.
        peak_bytes: Largest GPU memory, or the process's largest resident set on CPU.
    """

    step: int
    tokens: int
    train_loss: float | None
    eval_loss: float
    seconds: float
    tokens_per_second: float
    peak_bytes: int


class Session(Protocol):
    """A trial that trains, is measured, and can be put away and taken up again."""

    @property
    def done(self) -> bool:
        """Whether all planned steps are done."""
        ...

    def train(self, steps: int) -> StepReport:
        """Train up to ``steps`` more steps and evaluate.

        Raises:
            Diverged: A loss or gradient is not finite.
        """
        ...

    def test_loss(self) -> float:
        """Return the mean loss per token on the test split."""
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


class SoloSession:
    """One trial on a model of its own process: PEFT, ``torch.optim.AdamW`` and a plain loop."""

    def __init__(self, workload: Workload, spec: TrialSpec, device: str) -> None:
        """Attach the planned adapter.

        Raises:
            AllocationMismatch: What PEFT built is not what was planned.
        """
        self.workload, self.spec, self.device = workload, spec, device
        self.base: BaseModel = load(workload.model, device)
        self.splits: Splits = load_splits(workload.data, workload.model)
        self.pad_id: int = self.base.tokenizer.pad_token_id or 0
        self.allocation: RankAllocation = spec.allocation(self.base.sites, workload.budget, workload.evidence)
        self.alphas = spec.alphas(self.allocation, self.base.sites, workload.scale)
        torch.manual_seed(spec.seed)
        self.model: Any = adapters.attach(self.base.model, self.allocation, self.alphas, workload.dropout)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=spec.learning_rate, weight_decay=workload.weight_decay)
        self.order = batch_order(len(self.splits.train), workload.batch_size, workload.steps, spec.seed)
        self.rng = torch.get_rng_state()
        self.step, self.tokens, self.seconds = 0, 0, 0.0

    @property
    def done(self) -> bool:
        """Whether all planned steps are done."""
        return self.step >= self.workload.steps

    @property
    def facts(self) -> dict[str, Any]:
        """What was applied, read back from the model: ranks, alphas, parameters, efficiency."""
        applied = adapters.read_back(self.model)
        trainable = sum(p.numel() for p in self.parameters)
        return {
            "ranks": {site.name: applied.get(site.name, (0, 0.0))[0] for site in self.base.sites},
            "alphas": {name: rank * scale for name, (rank, scale) in applied.items()},
            "fan_in_fan_out": adapters.fan_in_fan_out(self.model),
            "trainable_parameters": trainable,
            "parameter_efficiency": parameter_efficiency(trainable, self.base.params),
        }

    def train(self, steps: int) -> StepReport:
        """Train up to ``steps`` more steps and evaluate."""
        started = time.perf_counter()
        torch.set_rng_state(self.rng)
        until = min(self.step + steps, self.workload.steps)
        loss, tokens = 0.0, 0
        self.model.train()
        while self.step < until:
            step_loss, step_tokens = self._step()
            loss, tokens = loss + step_loss, tokens + step_tokens
        self.tokens += tokens
        self.rng = torch.get_rng_state()
        trained = time.perf_counter()
        eval_loss = self._evaluate("validation")
        if not math.isfinite(eval_loss):
            raise self._diverged("validation loss", eval_loss)
        self.seconds += time.perf_counter() - started
        return StepReport(
            step=self.step,
            tokens=self.tokens,
            train_loss=loss / tokens if tokens else None,
            eval_loss=eval_loss,
            seconds=self.seconds,
            tokens_per_second=tokens / (trained - started),
            peak_bytes=_peak_bytes(self.device),
        )

    def test_loss(self) -> float:
        """Return the mean loss per token on the test split."""
        return self._evaluate("test")

    def save(self, folder: Path) -> None:
        """Write a checkpoint; its ``adapter`` folder is an ordinary PEFT adapter."""
        progress = checkpoint.Progress(step=self.step, tokens=self.tokens, seconds=self.seconds, **self._ties())
        checkpoint.write(folder, self.model, self.optimizer, self.rng, progress)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        progress, state = checkpoint.read(folder, self._ties())
        adapters.set_weights(self.model, state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng = state["rng"]
        self.step, self.tokens, self.seconds = progress.step, progress.tokens, progress.seconds

    def close(self) -> None:
        """Take the adapter off the base."""
        adapters.detach(self.model)

    def _step(self) -> tuple[float, int]:
        """Do one optimizer step and return (summed loss, learned tokens)."""
        examples = [self.splits.train[index] for index in self.order[self.step]]
        batch = collate(examples, self.pad_id, self.device)
        with autocast(self.device):
            loss = loss_sum(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        (loss / batch.learned_tokens).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.workload.clip_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise self._diverged("training loss and gradient norm", loss.item(), norm.item())
        factor = learning_rate_factor(self.step, self.workload.steps, self.workload.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * factor
        self.optimizer.step()
        self.step += 1
        return loss.item(), batch.learned_tokens

    def _evaluate(self, split: str) -> float:
        examples = getattr(self.splits, split)
        return evaluate(self.model, examples, self.workload.batch_size, self.pad_id, self.device)

    def _diverged(self, what: str, *values: float) -> Diverged:
        dtype = "bfloat16 autocast" if self.device == "cuda" else "float32"
        choices = f"learning rate {self.spec.learning_rate:g}, scaling {self.spec.scaling} x {self.workload.scale:g}"
        return Diverged(f"{what} {', '.join(map(str, values))} at step {self.step} ({choices}, {dtype})")

    def _ties(self) -> dict[str, str]:
        return {"base": identity(self.workload.model), "allocation": self.allocation.digest}


def _peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux
