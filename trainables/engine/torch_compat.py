"""What is relied on in PyTorch without its promise, as ``tests/contract/test_torch_compat.py`` has it."""

from typing import Any

import torch


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return what tells a storage from others that live, with memory or without; Python's objects of it come and go."""
    return int(storage._cdata)


def is_to_another_dtype(operator: Any) -> bool:
    """Return True for the operator that a tensor's ``to`` calls: it has no public name."""
    return operator.overloadpacket is torch.ops.aten._to_copy
