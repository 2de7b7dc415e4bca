"""How a frozen base lies in memory: in float32, in bfloat16, or its matrices in four bits. Imports no torch."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16"]
FLOAT32: Dtype = "float32"
BFLOAT16: Dtype = "bfloat16"
NF4: Literal["nf4"] = "nf4"
NF4_BITS = 4.5
"""Of a weight in blocks of 64: four bits, and a block's scale in float32."""
EXACT, ROUNDED = 1e-4, 2e-3


@dataclass(frozen=True, slots=True)
class Precision:
    """How a base lies in memory. Adapters, their gradients and moments are float32 over any.

    Args:
        dtype: Of all weights, those apart that are in four bits; these are computed in it.
        quantize: ``nf4`` for the matrices within the blocks; None for none.
    """

    dtype: Dtype = FLOAT32
    quantize: Literal["nf4"] | None = None

    @classmethod
    def of_plan(cls, choices: Mapping[str, Any]) -> "Precision":
        """Return that of a saved plan; one that does not say had float32."""
        dtype: Dtype = BFLOAT16 if choices.get("base_dtype") == BFLOAT16 else FLOAT32
        return cls(dtype, NF4 if choices.get("quantize") == NF4 else None)

    def __str__(self) -> str:
        return f"{self.quantize} and {self.dtype}" if self.quantize else self.dtype

    @property
    def exact(self) -> bool:
        """Whether nothing is rounded to less than float32."""
        return self == IN_FLOAT32

    @property
    def key(self) -> str:
        """What of a file's name tells from float32; nothing of that itself."""
        return "" if self.exact else f"-{self.quantize or self.dtype}"

    @property
    def tolerance(self) -> float:
        """Nats per token by which two measurements of one adapter may differ: rows alone or together, other kernels."""
        return EXACT if self.exact else ROUNDED

    @property
    def torch_dtype(self) -> "torch.dtype":
        """The dtype as PyTorch has it."""
        import torch

        return torch.bfloat16 if self.dtype == BFLOAT16 else torch.float32

    @property
    def loading(self) -> dict[str, Any]:
        """What Transformers is given to load a base so.

        Raises:
            ValueError: bitsandbytes is not installed.
        """
        options: dict[str, Any] = {"dtype": self.torch_dtype}
        if self.quantize is None:
            return options
        check_installed(f"--quantize {self.quantize}")
        from transformers import BitsAndBytesConfig

        return options | {"quantization_config": BitsAndBytesConfig(**self.four_bits)}

    @property
    def four_bits(self) -> dict[str, Any]:
        """The choices of ``BitsAndBytesConfig``."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.quantize,
            "bnb_4bit_compute_dtype": self.dtype,
            "bnb_4bit_use_double_quant": False,
        }


IN_FLOAT32 = Precision()


def check_installed(what: str) -> None:
    """Check that bitsandbytes is there.

    Args:
        what: What needs it.

    Raises:
        ValueError: It is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"{what}: needs bitsandbytes; install it (pip install 'lora-rank-search[nf4]')")


def check_saved(model: str, config: Any) -> None:
    """Check that a checkpoint's weights, if they were saved quantised, can be trained over.

    Args:
        model: As ``--model``.
        config: ``quantization_config`` of its configuration: a mapping or None.

    Raises:
        ValueError: They cannot; it says what can.
    """
    if not config:
        return
    saved: dict[str, Any] = dict(config) if isinstance(config, dict) else config.to_dict()
    method = str(saved.get("quant_method") or "bitsandbytes")
    if method == "bitsandbytes" and saved.get("load_in_4bit"):
        check_installed(f"--model {model}")
        return
    how = "int8" if method == "bitsandbytes" else method.upper() if method.isalnum() else "something unknown"
    raise ValueError(
        f"--model {model}: its weights are quantised by {how}, over which nothing trains here; give the model that "
        f"they were made from, with --quantize nf4 where memory is short"
    )
