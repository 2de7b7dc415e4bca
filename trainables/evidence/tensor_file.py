"""A .safetensors file with a digest, by which damage is detected. Imports torch where it is read or written."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

if TYPE_CHECKING:
    import torch

SHA256, TEXT = "sha256", "text"


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", text: str = "") -> None:
    """Write tensors, none of which shares memory with another, and a text."""
    from safetensors.torch import save_file

    metadata = {SHA256: _digest(tensors, text)} | ({TEXT: text} if text else {})
    save_file(dict(tensors), path, metadata=metadata)


def read_tensors(path: Path) -> "tuple[dict[str, torch.Tensor], str]":
    """Return tensors and text of ``write_tensors``.

    Raises:
        OSError: The file does not exist.
        SafetensorError: It was cut off.
        ValueError: It was changed.
    """
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    text = metadata.get(TEXT, "")
    if metadata.get(SHA256) != _digest(tensors, text):
        raise ValueError(f"{path}: not as it was written")
    return tensors, text


def _digest(tensors: "Mapping[str, torch.Tensor]", text: str) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(sorted(tensors)).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(text.encode())
    return digest.hexdigest()
