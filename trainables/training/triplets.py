"""AdaLoRA's parametrisation and its pruning: triplets of a left vector, a singular value and a right vector."""

from collections.abc import Iterator, Mapping

import torch
from peft import AdaLoraConfig

from trainables.adapters.adapter import Adapter
from trainables.adapters.peft_adapter import ADAPTER
from trainables.adapters.peft_compat import PARTS, Importance

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
        """Yield the tensors under PEFT's names."""
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


class CostAllocator:
    """Prunes triplets by PEFT's schedule and importance, its budget counted in parameters and not in ranks.

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
        self.costs, self.last = costs, config.total_step - config.tfinal
        start = sum(costs[name] * len(q) for name, (q, _, _) in triplets.values.items())
        self.importance = Importance(config, ADAPTER, (start, budget))
        self.masks = {name: torch.ones(len(q), dtype=torch.bool) for name, (q, _, _) in triplets.values.items()}

    def after(self, step: int, triplets: Triplets) -> None:
        """Update the triplets' importance, and prune if it is time; gradients must be those of the step.

        Args:
            step: Optimizer steps done, this one included.
            triplets: Their pruned singular values become 0.
        """
        if step > self.last:
            self._prune(triplets)
            return
        # PEFT scores triplets only in steps before the last; where that is the first, they would have no score
        if step < self.last or not self.importance.averages[0]:
            self.importance.update(triplets)
        budget, is_due = self.importance.budget_at(step)
        if is_due or step == self.last:
            self.keep_best(triplets, budget)
        if step == self.last:
            self.importance.forget()

    def keep_best(self, triplets: Triplets, budget: int) -> None:
        """Keep the most important triplets that fit into ``budget`` parameters."""
        queue = []
        for number, name in enumerate(triplets.values):
            queue += [(-value, number, k, name) for k, value in enumerate(self.importance.of(name).tolist())]
            self.masks[name].fill_(False)
        for _, _, k, name in sorted(queue):
            if self.costs[name] <= budget:
                self.masks[name][k] = True
                budget -= self.costs[name]
        self._prune(triplets)

    @torch.no_grad()
    def _prune(self, triplets: Triplets) -> None:
        for name, (_, value, _) in triplets.values.items():
            value[~self.masks[name]] = 0
