"""AdaLoRA: triplets are trained in place of an adapter, and pruned while they are."""

from collections.abc import Mapping

import torch
from peft import AdaLoraConfig

from strategies import AdaLora
from trainables.adapters.adapter import Adapter, AllocationMismatch
from trainables.models.base_model import BaseModel
from trainables.spec import TrialSpec, Workload
from trainables.training.parametrization import Parametrization
from trainables.training.triplets import CostAllocator, Triplets


class SingularValues(Parametrization):
    """AdaLoRA's parametrization, over an ordinary adapter of the ranks at the start.

    What it leaves is that adapter without its pruned rows.

    Raises:
        ValueError: The trial's strategy is not AdaLoRA.

    Source:
        Zhang et al., AdaLoRA (arXiv 2303.10512), algorithm 1; PEFT's ``AdaLoraModel``, with which the tests compare.
    """

    def __init__(self, adapter: Adapter, workload: Workload, spec: TrialSpec, base: BaseModel) -> None:
        if not isinstance(spec.strategy, AdaLora):
            raise ValueError(f"{spec.label} does not say when to prune")
        self.adapter, self.strategy = adapter, spec.strategy
        self.triplets = Triplets(adapter, spec.seed)
        phases = self.strategy.phases(workload.steps)
        config = AdaLoraConfig(
            total_step=workload.steps, tinit=phases.start, tfinal=phases.final, deltaT=phases.every
        )  # fmt: skip
        self.budget = workload.budget.share(spec.budget_share)
        costs = {site.name: site.cost for site in base.sites}
        self.allocator = CostAllocator(self.triplets, config, costs, self.budget.params)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The triplets' tensors."""
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

    def settle(self, step: int) -> None:
        """Prune if it is time, and put the triplets into the adapter."""
        self.allocator.after(step, self.triplets)
        self.triplets.apply()

    def check_end(self) -> None:
        """Check that what is left is within the budget."""
        cost, budget = sum(tensor.numel() for tensor in self.outcome.parameters), self.budget.params
        if cost > budget:
            raise AllocationMismatch(f"{cost} parameters after the last pruning, the budget is {budget}")

    def state(self) -> dict[str, torch.Tensor]:
        """Return the triplets, their importance and their masks."""
        sensitivity, uncertainty = self.allocator.importance.averages
        parts = {
            "value": dict(self.triplets.named_parameters()),
            "kept": self.allocator.masks,
            "sensitivity": sensitivity,
            "uncertainty": uncertainty,
        }
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def restore(self, weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
        """Restore the triplets, their importance and their masks; ``weights`` follow from these."""
        device = self.adapter.parameters[0].device
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in state.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor.to(device)
        self.triplets.set(parts["value"])
        self.allocator.masks = {name: tensor.bool().cpu() for name, tensor in parts["kept"].items()}
        self.allocator.importance.restore(parts.get("sensitivity", {}), parts.get("uncertainty", {}))
