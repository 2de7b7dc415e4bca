"""AdaLoRA's parametrisation and its pruning: triplets of a left vector, a singular value and a right vector."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.adalora import AdaLoraConfig, RankAllocator

from trainables.adapters.peft_adapter import ADAPTER, Adapter

PARTS = ("lora_A", "lora_E", "lora_B")
SPREAD = 0.02


class Triplets:
    """The update ``P diag(lambda) Q`` of every site, as the plain LoRA that computes the same.

    With ``A = lambda * Q`` and ``B = P`` the model runs an ordinary adapter, alone or in a pack, and the chain rule
    takes its gradients further. PEFT's names: ``lora_A`` is Q (rank, d_in), ``lora_E`` is lambda (rank, 1) and
    ``lora_B`` is P (d_out, rank).

    Args:
        adapter: The adapter that the model runs; its tensors are overwritten.
        seed: Of the initial vectors, drawn as PEFT draws them; lambda begins as 0.

    Source:
        AdaLoRA (arXiv 2303.10512), section 3.1.
    """

    def __init__(self, adapter: Adapter, seed: int) -> None:
        self.adapter = adapter
        generator = torch.Generator().manual_seed(seed)
        self.values: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        for name, (a, b) in adapter.factors.items():
            fresh = (
                torch.empty(a.shape).normal_(std=SPREAD, generator=generator),
                torch.zeros(len(a), 1),
                torch.empty(b.shape).normal_(std=SPREAD, generator=generator),
            )
            q, value, p = (tensor.to(a.device).requires_grad_() for tensor in fresh)
            self.values[name] = (q, value, p)
        self.apply()

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors under the names that PEFT's ``RankAllocator`` looks for."""
        for name, tensors in self.values.items():
            for part, tensor in zip(PARTS, tensors, strict=True):
                yield f"{name}.{part}.{ADAPTER}", tensor

    @torch.no_grad()
    def apply(self) -> None:
        """Put the product into the adapter."""
        for name, (q, value, p) in self.values.items():
            a, b = self.adapter.factors[name]
            a.copy_(value * q)
            b.copy_(p)

    @torch.no_grad()
    def gather(self, orthogonal: float) -> None:
        """Set the gradients from those of the adapter, and add those of the penalty."""
        weight = orthogonal / (2 * len(self.values))
        for name, (q, value, p) in self.values.items():
            a, b = self.adapter.factors[name]
            if a.grad is None or b.grad is None:
                raise RuntimeError(f"{name} has no gradient")
            value.grad = (a.grad * q).sum(1, keepdim=True)
            q.grad = value * a.grad + weight * penalty_gradient(q)
            p.grad = b.grad + weight * penalty_gradient(p.t()).t()

    def set(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put tensors from ``named_parameters`` back."""
        with torch.no_grad():
            for name, tensor in self.named_parameters():
                tensor.copy_(tensors[name])
        self.apply()


def penalty_gradient(rows: torch.Tensor) -> torch.Tensor:
    """Return the gradient of ``|rows rows^T - 1|``, the Frobenius norm; rows is (rank, d).

    The paper squares the norm; its authors' code and PEFT do not, and the usual weights are meant for that.
    """
    gap = rows @ rows.t() - torch.eye(len(rows), device=rows.device)
    gradient: torch.Tensor = 2 * gap @ rows / gap.norm().clamp_min(1e-12)
    return gradient


class CostAllocator(RankAllocator):  # type: ignore[misc]
    """PEFT's allocator, its budget counted in parameters and not in ranks.

    Args:
        triplets: What is pruned.
        config: Its schedule.
        costs: Site -> parameters of one triplet; lambda is folded into Q in the end and is not counted.
        budget: Parameters to end with.

    Source:
        AdaLoRA (arXiv 2303.10512), equations 8 to 12. Triplets are kept by importance alone, as there; one that costs
        more than the remaining budget is skipped for the next that fits.
    """

    def __init__(self, triplets: Triplets, config: AdaLoraConfig, costs: Mapping[str, int], budget: int) -> None:
        self.costs, self.budget = costs, budget
        super().__init__(triplets, config, ADAPTER)
        self.masks = {name: torch.ones(len(q), dtype=torch.bool) for name, (q, _, _) in triplets.values.items()}

    def _set_budget_scheduler(self, model: Triplets) -> None:
        self.init_bgt = sum(self.costs[name] * len(q) for name, (q, _, _) in model.values.items())
        self.target_bgt = self.budget

    def after(self, step: int, triplets: Triplets) -> None:
        """Update the triplets' importance, and prune if it is time; gradients must be those of the step.

        Args:
            step: Optimizer steps done, this one included.
            triplets: Their pruned singular values become 0.
        """
        last = self.peft_config.total_step - self.peft_config.tfinal
        if step <= last:
            if step == last and not self.exp_avg_ipt:  # PEFT scores them only in steps before the last
                self.update_ipt(triplets)
            self.update_and_allocate(triplets, step, force_mask=step == last)
            if step == last:
                self.reset_ipt()
        else:
            self._prune(triplets)

    def mask_to_budget(self, model: Triplets, budget: int) -> dict[str, Any]:
        """Keep the most important triplets that fit into ``budget`` parameters."""
        queue = []
        for number, name in enumerate(model.values):
            queue += [(-value, number, k, name) for k, value in enumerate(self._importance(name).tolist())]
            self.masks[name].fill_(False)
        for _, _, k, name in sorted(queue):
            if self.costs[name] <= budget:
                self.masks[name][k] = True
                budget -= self.costs[name]
        self._prune(model)
        return {}

    def _importance(self, name: str) -> torch.Tensor:
        q, value, p = (self._element_score(f"{name}.{part}.{ADAPTER}") for part in PARTS)
        importance: torch.Tensor = self._combine_ipt(value, torch.stack([q.mean(1), p.mean(0)], 1))
        return importance

    @torch.no_grad()
    def _prune(self, triplets: Triplets) -> None:
        for name, (_, value, _) in triplets.values.items():
            value[~self.masks[name]] = 0
