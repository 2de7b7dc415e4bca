"""What is relied on in PEFT without PEFT's promise: two classes that its own methods are made of.

``tests/contract/test_peft_compat.py`` fails if one of them gets another name or meaning, and the bounds in
``pyproject.toml`` keep out a PEFT for which it has not been run.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from peft.tuners.adalora import AdaLoraConfig, RankAllocator
from peft.utils.incremental_pca import IncrementalPCA

PARTS = ("lora_A", "lora_E", "lora_B")
"""The tensors of AdaLoRA's triplets: Q (rank, d_in), lambda (rank, 1) and P (d_out, rank)."""
SEED = 42


class Named(Protocol):
    """Has tensors with gradients, under names that PEFT knows by ``PARTS`` and the adapter's name in them."""

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor)."""
        ...


class Importance(RankAllocator):  # type: ignore[misc]
    """Importance of AdaLoRA's triplets and the schedule of its budget, as PEFT computes them; it prunes nothing.

    PEFT's only public way to them, ``AdaLoraModel``, counts its budget in ranks and owns the model's layers.

    Args:
        config: Of smoothing and schedule.
        adapter: Name of the adapter.
        budgets: At the start and at the end, in any unit.

    Source:
        AdaLoRA (arXiv 2303.10512), equations 8 to 11.
    """

    def __init__(self, config: AdaLoraConfig, adapter: str, budgets: tuple[int, int]) -> None:
        self._budgets = budgets
        super().__init__(None, config, adapter)

    def _set_budget_scheduler(self, model: None) -> None:
        """Take the place of what counts the ranks of a model."""
        self.init_bgt, self.target_bgt = self._budgets

    def budget_at(self, step: int) -> tuple[int, bool]:
        """Return the budget after an optimizer step, and whether it is time to prune to it."""
        budget, is_due = self.budget_schedule(step)
        return int(budget), bool(is_due)

    def update(self, tensors: Named) -> None:
        """Take the sensitivity of an optimizer step into the averages."""
        self.update_ipt(tensors)

    def of(self, triplets: str) -> torch.Tensor:
        """Return the importance of each of the triplets of a name, (rank,): what comes before ``.lora_A``."""
        q, value, p = (self._element_score(f"{triplets}.{part}.{self.adapter_name}") for part in PARTS)
        importance: torch.Tensor = self._combine_ipt(value, torch.stack([q.mean(1), p.mean(0)], 1))
        return importance

    @property
    def averages(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Name of a tensor -> its smoothed sensitivity, and -> how that varies; empty before the first ``update``."""
        return self.exp_avg_ipt, self.exp_avg_unc

    def restore(self, sensitivity: Mapping[str, torch.Tensor], uncertainty: Mapping[str, torch.Tensor]) -> None:
        """Go on from ``averages``."""
        # of `ipt` PEFT reads only whether a name is in it, before it is overwritten
        self.ipt, self.exp_avg_ipt, self.exp_avg_unc = dict(sensitivity), dict(sensitivity), dict(uncertainty)

    def forget(self) -> None:
        """Let go of the averages."""
        self.reset_ipt()


class PrincipalComponents:
    """Principal components of vectors that come in batches, as in PEFT's EVA.

    PEFT's own function for EVA gives the components, but not their shares of the variance.

    Args:
        count: Components to find; each batch must have at least as many vectors.
        low_rank: Whether to approximate, which is quicker where ``count`` is small.
    """

    def __init__(self, count: int, low_rank: bool) -> None:
        self._fit = IncrementalPCA(count, lowrank=low_rank, lowrank_seed=SEED)

    def add(self, vectors: torch.Tensor) -> None:
        """Add a batch, (vectors, d)."""
        self._fit.partial_fit(vectors)

    @property
    def components(self) -> torch.Tensor:
        """The components, largest first, (count, d), of length 1."""
        components: torch.Tensor = self._fit.components_
        return components

    @property
    def ratios(self) -> torch.Tensor:
        """Each component's share of the variance, (count,); none where there is no variance."""
        ratios: torch.Tensor = self._fit.explained_variance_ratio_
        return torch.where(self._fit.explained_variance_ == 0, torch.zeros_like(ratios), ratios)
