"""A trial's own state, however its losses are computed: adapter, optimizer, schedule, order of the data, counters."""

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from strategies.base import Site
from strategies.geometry import parameter_efficiency
from trainables.adapters.adapter import Adapter, load_weights
from trainables.models.base_model import BaseModel
from trainables.models.device import device_of
from trainables.models.identity import identity
from trainables.spec import TrialSpec, Workload
from trainables.training import checkpoint
from trainables.training.flat_adamw import Step
from trainables.training.losses import batch_order, learning_rate_factor
from trainables.training.parametrization import Plain, parametrization_of
from trainables.training.session import Diverged, StepReport

RNG, EXTRA = "rng", "own/"
"""Names in a checkpoint's tensors: the random number generator's, and the prefix of ``Parametrization.state``'s."""


@dataclass(slots=True)
class Recent:
    """What a trial has trained since its last report.

    Args:
        loss: Summed training loss, in nats.
        tokens: Learned tokens.
        seconds: Time that the training alone took.
    """

    loss: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


class Learner:
    """The state of one trial; what it trains is up to its ``parametrization``.

    ``trains_adapter`` tells whether that is the adapter itself. Then a pack may do the steps in place of ``advance``,
    as ``next_step`` says, and ``check`` and ``count`` them.

    Args:
        workload: What all trials share.
        spec: The trial.
        base: The frozen base.
        adapter: The trial's adapter, audited; its tensors are changed in place.
        examples: Size of the training split.
    """

    def __init__(self, workload: Workload, spec: TrialSpec, base: BaseModel, adapter: Adapter, examples: int) -> None:
        self.workload, self.spec, self.adapter = workload, spec, adapter
        self.sites: tuple[Site, ...] = base.sites
        self.base_params = base.params
        self.device, self.arithmetic = base.device, base.arithmetic
        self.parametrization = parametrization_of(adapter, workload, spec, base)
        self.parameters = self.parametrization.parameters
        self.trains_adapter = type(self.parametrization) is Plain
        self.rate_factors = self._rate_factors()
        self.optimizer = torch.optim.AdamW(self._groups(), lr=spec.learning_rate, weight_decay=workload.weight_decay)
        self.order = batch_order(examples, workload.batch_size, workload.steps, spec.seed)
        self.rng = device_of(self.device).rng_state()
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.recent = Recent()

    @property
    def done(self) -> bool:
        """Whether all planned steps are done."""
        return self.step >= self.workload.steps

    @property
    def facts(self) -> dict[str, Any]:
        """The applied allocation, read from the trained tensors: ranks, alphas, parameters, efficiency."""
        adapter = self.outcome
        ranks = adapter.ranks
        trainable = sum(p.numel() for p in adapter.parameters)
        return {
            "ranks": {site.name: ranks.get(site.name, 0) for site in self.sites},
            "alphas": {name: rank * adapter.scales[name] for name, rank in ranks.items()},
            "fan_in_fan_out": adapter.config.fan_in_fan_out,
            "trainable_parameters": trainable,
            "parameter_efficiency": parameter_efficiency(trainable, self.base_params),
        }

    @property
    def outcome(self) -> Adapter:
        """The adapter as it would be used now."""
        return self.parametrization.outcome

    def advance(self, loss: float, tokens: int) -> None:
        """Do one optimizer step with the accumulated gradients, and zero them.

        Args:
            loss: The batch's summed loss, in nats.
            tokens: Learned tokens in the batch.

        Raises:
            Diverged: Loss or gradient norm is not finite; nothing has been changed.
        """
        self.parametrization.gather()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.workload.clip_norm).item()
        self.check(loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group["rate_factor"]
        self.optimizer.step()
        self.count(loss, tokens)
        self.parametrization.settle(self.step)
        self.zero_grad()

    @property
    def learning_rate(self) -> float:
        """Of the next step, where a site has no factor of its own."""
        factor = learning_rate_factor(self.step, self.workload.steps, self.workload.warmup)
        return self.spec.learning_rate * factor

    @property
    def next_step(self) -> Step:
        """The next step, for whoever does it in place of ``advance``."""
        return Step(self.step + 1, self.learning_rate, self.workload.weight_decay, self.workload.clip_norm)

    def begun_moments(self) -> MutableMapping[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the optimizer knows of each of the adapter's tensors, for whoever does its steps to add moments.

        Nothing if these are not what is trained.
        """
        if not self.trains_adapter:
            return {}
        self.optimizer.state.update({parameter: {"step": torch.zeros(())} for parameter in self.parameters})
        return self.optimizer.state

    def check(self, loss: float, norm: float) -> None:
        """Check the loss of a step and its gradients' norm.

        Raises:
            Diverged: One of them is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self.diverged("training loss and gradient norm", loss, norm)

    def count(self, loss: float, tokens: int) -> None:
        """Count a step that is done; arguments as of ``advance``."""
        self.step += 1
        self.tokens += tokens
        self.recent.loss += loss
        self.recent.tokens += tokens

    def zero_grad(self) -> None:
        """Zero the adapter's gradients, in place; other parameters' are computed from them."""
        for tensor in self.adapter.parameters:
            if tensor.grad is not None:
                tensor.grad.zero_()

    def spent(self, seconds: float) -> None:
        """Count time that the training took."""
        self.seconds += seconds
        self.recent.seconds += seconds

    def report(self, eval_loss: float) -> StepReport:
        """Return the report on the steps since the last one.

        Args:
            eval_loss: Mean validation loss per token.

        Raises:
            AllocationMismatch: The trial is done, and over its budget.
            Diverged: The validation loss is not finite.
        """
        if self.done:
            self.parametrization.check_end()
        if not math.isfinite(eval_loss):
            raise self.diverged("validation loss", eval_loss)
        recent, self.recent = self.recent, Recent()
        return StepReport(
            step=self.step,
            tokens=self.tokens,
            train_loss=recent.loss / recent.tokens if recent.tokens else None,
            eval_loss=eval_loss,
            seconds=self.seconds,
            tokens_per_second=recent.tokens / recent.seconds if recent.tokens else None,
            peak_bytes=device_of(self.device).peak_bytes(),
        )

    def diverged(self, quantities: str, *values: float) -> Diverged:
        """Return the error that names the step and the choices with which this trial diverged."""
        dtype = self.arithmetic
        choices = f"learning rate {self.spec.learning_rate:g}, scaling {self.spec.scaling} x {self.workload.scale:g}"
        return Diverged(f"{quantities} {', '.join(map(str, values))} at step {self.step} ({choices}, {dtype})")

    def save(self, folder: Path) -> None:
        """Write a checkpoint; its ``adapter`` folder is an ordinary PEFT adapter."""
        progress = checkpoint.Progress(
            step=self.step, tokens=self.tokens, seconds=self.seconds, recent=asdict(self.recent), **self._provenance()
        )
        checkpoint.write(folder, progress, self._write_tensors)

    def _write_tensors(self, folder: Path) -> None:
        self.outcome.save(folder / checkpoint.ADAPTER)
        state = self.parametrization.state()
        extra = {EXTRA + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        for values in self.optimizer.state.values():
            values["step"].fill_(self.step)  # whoever did the steps
        moments = _flat(self.optimizer) if self.step else {}
        save_file(moments | extra | {RNG: self.rng.contiguous()}, folder / checkpoint.STATE)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: It belongs to another base or allocation.
        """
        progress = checkpoint.fitting(folder, self._provenance())
        tensors = load_file(folder / checkpoint.STATE)
        self.rng = tensors.pop(RNG)
        extra = {key.removeprefix(EXTRA): tensors.pop(key) for key in [*tensors] if key.startswith(EXTRA)}
        self.parametrization.restore(load_weights(folder / checkpoint.ADAPTER), extra)
        self._set_moments(_unflat(tensors))
        self.step, self.tokens, self.seconds = progress.step, progress.tokens, progress.seconds
        self.recent = Recent(**progress.recent)

    def _set_moments(self, saved: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        """Restore what the optimizer knows, in place where it has tensors for it."""
        if not any(self.optimizer.state.values()):
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": saved})
            return
        for number, parameter in enumerate(self.parameters):
            for name, tensor in self.optimizer.state[parameter].items():
                if number in saved:
                    tensor.copy_(saved[number][name])
                else:
                    tensor.zero_()

    def _rate_factors(self) -> dict[str, float]:
        """Return adapted site -> what the learning rate is multiplied by there; empty if it is 1 everywhere.

        Raises:
            ValueError: The trial trains something else than A and B, which is not of a site.
        """
        factors = self.spec.rate_factors(self.sites)
        factors = {name: factors.get(name, 1.0) for name in self.adapter.factors} if factors else {}
        if factors and not self.trains_adapter:
            raise ValueError(f"{self.spec.label}: learning rates of sites are for strategies that train A and B")
        return factors

    def _groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups, in the order of the parameters, which a checkpoint numbers by it."""
        if not self.rate_factors:
            return [{"params": self.parameters, "rate_factor": 1.0}]
        pairs = self.adapter.factors.items()
        return [{"params": list(pair), "rate_factor": self.rate_factors[name]} for name, pair in pairs]

    def _provenance(self) -> Mapping[str, Any]:
        """Return the base and allocation that a checkpoint must match; the allocation is as planned and audited."""
        workload = self.workload
        allocation = self.spec.digest(self.sites, workload.budget, workload.evidence)
        return {"base": identity(workload.model), "allocation": allocation}


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": tensor.detach().cpu().contiguous()
        for number, values in state.items()
        for name, tensor in values.items()
    }


def _unflat(tensors: Mapping[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    """Return parameter number -> its optimizer state; the inverse of ``_flat``."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = tensor
    return state
