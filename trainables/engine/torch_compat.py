"""What is relied on in PyTorch without its promise, as ``tests/contract/test_torch_compat.py`` has it."""

import torch


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return what tells a storage from others that live, with memory or without; Python's objects of it come and go."""
    return int(storage._cdata)
