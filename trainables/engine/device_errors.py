"""Errors of the device: it has too little memory, or this process cannot use it any more."""

import torch

# the first is the CPU's; the others are no OutOfMemoryError, since no allocation by PyTorch itself has failed
SHORTAGES = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # raised if there is no memory for a thread's handle
)


def out_of_memory(error: BaseException) -> bool:
    """Return True if memory did not suffice; with less to do it may."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(shortage in str(error) for shortage in SHORTAGES)
    )


def broken(error: BaseException) -> bool:
    """Return True if the device fails from now on: a context does not heal, and a new process has another."""
    accelerator: tuple[type[Exception], ...] | type[Exception] = getattr(torch, "AcceleratorError", ())  # torch 2.8
    failed = isinstance(error, accelerator) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    return failed and not out_of_memory(error)
