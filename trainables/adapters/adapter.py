"""An adapter's tensors, apart from any model: to save, to read, to cut."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from trainables.adapters import WEIGHTS, naming

if TYPE_CHECKING:  # the driver plans memory for adapters, and must not wait for PEFT
    import peft


class AllocationMismatch(RuntimeError):
    """The adapter differs from the plan. The trial must not train."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's tensors, apart from any model.

    Args:
        config: PEFT's configuration.
        factors: Adapted site -> (A of shape (rank, d_in), B of shape (d_out, rank)).
        scales: Adapted site -> the scale in use.
    """

    config: "peft.LoraConfig"
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    scales: Mapping[str, float]

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All tensors, in the order of the sites."""
        return [tensor for pair in self.factors.values() for tensor in pair]

    @property
    def ranks(self) -> dict[str, int]:
        """Adapted site -> rank of its tensors."""
        return {name: int(a.shape[0]) for name, (a, _) in self.factors.items()}

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors under PEFT's names, not copied."""
        return {
            f"base_model.model.{name}.lora_{part}.weight": tensor
            for name, pair in self.factors.items()
            for part, tensor in zip("AB", pair, strict=True)
        }

    def set_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore tensors from ``weights``.

        Raises:
            AllocationMismatch: Names or shapes do not fit.
        """
        weights = self.weights
        if weights.keys() != tensors.keys():
            raise AllocationMismatch(f"the checkpoint's adapter differs at {min(weights.keys() ^ tensors.keys())}")
        with torch.no_grad():
            for name, tensor in weights.items():
                if tensor.shape != tensors[name].shape:
                    raise AllocationMismatch(f"{name}: {tuple(tensors[name].shape)} saved, {tuple(tensor.shape)} here")
                tensor.copy_(tensors[name])

    def cut(self, masks: Mapping[str, torch.Tensor]) -> "Adapter":
        """Return an adapter of some of the rows of A and columns of B, at the same scales.

        Args:
            masks: Adapted site -> a boolean for each of its rows; a site without a row to keep is omitted.
        """
        factors = {
            name: (a.detach()[masks[name]], b.detach()[:, masks[name]])
            for name, (a, b) in self.factors.items()
            if masks[name].any()
        }
        scales = {name: self.scales[name] for name in factors}
        ranks = {name: len(a) for name, (a, _) in factors.items()}
        alphas = {name: scales[name] * rank for name, rank in ranks.items()}
        fields = naming.exact(ranks, alphas, self.factors)
        if isinstance(self.config.target_modules, str):  # a list would match other modules, too
            fields["target_modules"] = naming.one_regex(ranks)
        return Adapter(replace(self.config, **fields), factors, scales)

    @property
    def applied(self) -> dict[str, tuple[int, float]]:
        """Adapted site -> (rank of its tensors, scale in use)."""
        return {name: (rank, self.scales[name]) for name, rank in self.ranks.items()}

    def save(self, folder: Path) -> None:
        """Write a folder that ``PeftModel.from_pretrained`` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        config = replace(self.config, inference_mode=True)
        if not isinstance(config.target_modules, str):
            config.target_modules = sorted(config.target_modules)  # a set's order is another in each process
        config.save_pretrained(str(folder))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.weights.items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors that ``Adapter.save`` wrote, under PEFT's names."""
    tensors: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    return tensors
