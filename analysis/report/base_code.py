"""Code that loads the base as it lay in memory in training: in another dtype it is another base than was measured."""

from analysis.results.run_info import RunInfo

IMPORTS = "import peft, torch, transformers"
FOUR_BITS = "load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype={}, bnb_4bit_use_double_quant=False"
"""As the adapter was verified: ``Precision.four_bits`` of ``trainables``."""


def base_code(base: str, revision: str | None, info: RunInfo) -> list[str]:
    """Return lines that make ``base``, after ``IMPORTS``.

    Args:
        base: A folder or a hub id.
        revision: The hub id's commit.
        info: Says how it lay in memory.
    """
    dtype = "torch.bfloat16" if info.base_dtype == "bfloat16" else "torch.float32"
    options = [repr(base), *([f"revision={revision!r}"] if revision else []), f"dtype={dtype}"]
    lines = []
    if info.quantize == "nf4":
        lines.append(f"bits = transformers.BitsAndBytesConfig({FOUR_BITS.format(dtype)})")
        options.append("quantization_config=bits")
    return [*lines, f"base = transformers.AutoModelForCausalLM.from_pretrained({', '.join(options)})"]
