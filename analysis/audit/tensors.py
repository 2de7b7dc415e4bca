"""Tensors of a .safetensors file as NumPy arrays; nothing here reads a pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "<i1", "U8": "<u1", "BOOL": "?"}
Array = NDArray[Any]


def read(path: Path) -> dict[str, Array]:
    """Return name -> array. Halves come as float32, which has all of their values.

    Raises:
        ValueError: The file is no .safetensors file, is cut off, or has numbers of a kind that is not read.
        OSError: It cannot be read.
    """
    try:
        tensors = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a .safetensors file, or cut off ({error})") from error
    return {name: _array(path, name, tensor) for name, tensor in tensors}


def _array(path: Path, name: str, tensor: Mapping[str, Any]) -> Array:
    kind, data = tensor["dtype"], bytes(tensor["data"])
    if kind == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in DTYPES:
        values = np.frombuffer(data, DTYPES[kind])
    else:
        raise ValueError(f"{path}: {name}: numbers of the kind {kind} are not read; save it as float32")
    values = values.astype(np.float32) if kind == "F16" else values
    return values.reshape(tensor["shape"])
