"""A trial whose ranks are decided while it trains: AdaLoRA, over the adapter of any other trial."""

from collections.abc import Mapping

import torch
from peft import AdaLoraConfig

from strategies import AdaLora
from trainables.adapters.peft_adapter import Adapter, AllocationMismatch
from trainables.models.base_model import BaseModel
from trainables.spec import TrialSpec, Workload
from trainables.training.session import StepReport
from trainables.training.trial_state import Learner
from trainables.training.triplets import CostAllocator, Triplets


class AdaLoraLearner(Learner):
    """An AdaLoRA trial's own state.

    The model runs an ordinary adapter of the ranks at the start, so the trial trains alone or in a pack like any other;
    the triplets behind it are trained. Its outcome is that adapter without its pruned rows.

    Source:
        Zhang et al., AdaLoRA (arXiv 2303.10512), algorithm 1; PEFT's ``AdaLoraModel``, with which the tests compare.
    """

    def __init__(self, workload: Workload, spec: TrialSpec, base: BaseModel, adapter: Adapter, examples: int) -> None:
        if not isinstance(spec.allocator, AdaLora):
            raise ValueError(f"{spec.label} does not allocate while training")
        self.strategy = spec.allocator
        self.triplets = Triplets(adapter, spec.seed)
        phases = self.strategy.phases(workload.steps)
        config = AdaLoraConfig(
            total_step=workload.steps, tinit=phases.start, tfinal=phases.final, deltaT=phases.every
        )  # fmt: skip
        self.budget = workload.budget.share(spec.budget_share)
        self.allocator = CostAllocator(
            self.triplets, config, {site.name: site.cost for site in base.sites}, self.budget.params
        )
        super().__init__(workload, spec, base, adapter, examples)

    def trained(self) -> list[torch.Tensor]:
        """Return the triplets' tensors."""
        return [tensor for _, tensor in self.triplets.named_parameters()]

    @property
    def outcome(self) -> Adapter:
        """The adapter without the rows that are pruned; lambda is in A."""
        masks = {}
        for name, (a, _) in self.adapter.factors.items():
            # between two prunings the optimizer may have brought a pruned triplet back
            masks[name] = self.allocator.masks[name].to(a.device) | a.detach().any(1)
        return self.adapter.cut(masks)

    def gather(self) -> None:
        """Take the adapter's gradients to the triplets, with the penalty's."""
        self.triplets.gather(self.strategy.orthogonal)

    def settle(self) -> None:
        """Prune if it is time, and put the triplets into the adapter."""
        self.allocator.after(self.step, self.triplets)
        self.triplets.apply()

    def zero_grad(self) -> None:
        """Zero the adapter's gradients, in place; the triplets' are computed from them."""
        for tensor in self.adapter.parameters:
            if tensor.grad is not None:
                tensor.grad.zero_()

    def report(self, eval_loss: float) -> StepReport:
        """Return the report, as ``Learner``.

        Raises:
            AllocationMismatch: The trial is done, and over its budget.
        """
        cost, budget = self.facts["trainable_parameters"], self.budget.params
        if self.done and cost > budget:
            raise AllocationMismatch(f"{cost} parameters after the last pruning, the budget is {budget}")
        return super().report(eval_loss)

    def restore(self, weights: Mapping[str, torch.Tensor], extra_state: Mapping[str, torch.Tensor]) -> None:
        """Restore the triplets, their importance and their masks; ``weights`` follow from these."""
        tensors = {name: tensor.to(self.device) for name, tensor in extra_state.items()}
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        self.triplets.set(parts["value"])
        self.allocator.masks = {name: tensor.bool().cpu() for name, tensor in parts["kept"].items()}
        self.allocator.importance.restore(parts.get("sensitivity", {}), parts.get("uncertainty", {}))

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return the triplets, their importance and their masks."""
        sensitivity, uncertainty = self.allocator.importance.averages
        parts = {
            "value": dict(self.triplets.named_parameters()),
            "kept": self.allocator.masks,
            "sensitivity": sensitivity,
            "uncertainty": uncertainty,
        }
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def learner_of(workload: Workload, spec: TrialSpec, base: BaseModel, adapter: Adapter, examples: int) -> Learner:
    """Return the learner of a trial, as its strategy needs it."""
    if isinstance(spec.allocator, AdaLora):
        return AdaLoraLearner(workload, spec, base, adapter, examples)
    return Learner(workload, spec, base, adapter, examples)
