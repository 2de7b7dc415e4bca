"""What a trial trains in place of its adapter: plain LoRA's factors themselves, or tensors that these follow from."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from trainables.adapters.adapter import Adapter
from trainables.models.base_model import BaseModel
from trainables.spec import TrialSpec, Workload


class Parametrization(ABC):
    """The tensors that a trial trains, over the adapter that the model runs.

    The model knows the adapter alone, so that a trial trains in a pack like any other. Before each step of the
    optimizer ``gather`` takes the gradients from the adapter, and after it ``settle`` puts the values into it.

    Args:
        adapter: The trial's adapter, audited; its values may be changed, and its tensors not replaced.
        workload: What all trials share.
        spec: The trial.
        base: The frozen base.
    """

    @abstractmethod
    def __init__(self, adapter: Adapter, workload: Workload, spec: TrialSpec, base: BaseModel) -> None: ...

    @property
    @abstractmethod
    def parameters(self) -> list[torch.Tensor]:
        """The tensors that the optimizer changes, in the order in which a checkpoint numbers what it knows of them."""

    @property
    @abstractmethod
    def outcome(self) -> Adapter:
        """The adapter as it would be used now."""

    @abstractmethod
    def gather(self) -> None:
        """Set the parameters' gradients from those of the adapter."""

    @abstractmethod
    def settle(self, step: int) -> None:
        """Put the parameters into the adapter.

        Args:
            step: Optimizer steps done.
        """

    @abstractmethod
    def check_end(self) -> None:
        """Check what a finished trial leaves.

        Raises:
            AllocationMismatch: It is more than the trial may spend.
        """

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that a checkpoint has besides the adapter's and the optimizer's."""

    @abstractmethod
    def restore(self, weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
        """Restore a checkpoint.

        Args:
            weights: The adapter's, as ``outcome`` had them.
            state: As ``state`` returned it, on the CPU.
        """


class Plain(Parametrization):
    """LoRA: A and B are trained themselves."""

    def __init__(self, adapter: Adapter, workload: Workload, spec: TrialSpec, base: BaseModel) -> None:
        self.adapter = adapter

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The adapter's tensors."""
        return self.adapter.parameters

    @property
    def outcome(self) -> Adapter:
        """The adapter."""
        return self.adapter

    def gather(self) -> None:
        """Do nothing: the gradients are the adapter's."""

    def settle(self, step: int) -> None:
        """Do nothing: the values are the adapter's."""

    def check_end(self) -> None:
        """Do nothing: the ranks are those that were audited at the start."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return nothing."""
        return {}

    def restore(self, weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
        """Restore the adapter's tensors."""
        self.adapter.set_weights(weights)


def parametrization_of(adapter: Adapter, workload: Workload, spec: TrialSpec, base: BaseModel) -> Parametrization:
    """Return the parametrization that a trial's strategy names; without a name, plain LoRA's."""
    cls: type[Parametrization] = Plain if spec.parametrization is None else pkgutil.resolve_name(spec.parametrization)
    return cls(adapter, workload, spec, base)
