"""What an error says about the device: that it has too little memory."""

import torch

# the first on CPU; the others are no OutOfMemoryError, since no allocation of PyTorch's own has failed
SHORTAGES = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Say whether memory did not suffice; with less to do it may."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(shortage in str(error) for shortage in SHORTAGES)
    )
