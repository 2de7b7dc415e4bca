"""A model's files, before anything is loaded: their folder, and whether they are intact. No pickle is ever read."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from trainables.models import hub

BUNDLED = Path(__file__).parent / "bundled"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration and tokenizer
SAVE = "load it where you trust it and save it with save_pretrained, which writes safetensors"


def resolve(model: str, weights: bool = True) -> str:
    """Return the directory behind a ``--model`` value; a hub id's files are downloaded, weights only if wanted.

    Raises:
        ValueError: It contains no model, or none of that name exists.
    """
    if model == "bundled":
        return str(BUNDLED)
    if hub.is_hub_id(model):
        folder = hub.folder("model", model, (*DESCRIPTION, "*.safetensors") if weights else DESCRIPTION)
    else:
        folder = Path(model)
    if not os.path.isdir(folder):  # unlike Path's, this accepts a name of any length
        problem = "not a directory" if os.path.exists(folder) else "no such directory"
        raise ValueError(f"--model {model}: {problem}; give a saved Hugging Face model or a hub id")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"--model {model}: an adapter, not a model; give its base, or the two merged")
    if not (folder / "config.json").is_file():
        raise ValueError(f"--model {model}: no config.json in it; give a saved Hugging Face model or a hub id")
    return str(folder.resolve())


class NoWeights(ValueError):
    """A model's folder has none. The message says so, in one line."""


def check_weights(model: str) -> bool:
    """Check the weights without loading them; of a hub model's that are not downloaded yet, the names.

    Returns:
        Whether all are on this machine.

    Raises:
        ValueError: None exist, they are pickles, or a file is missing or cut off.
    """
    folder = Path(resolve(model, weights=False))
    file_names = hub.file_names("model", model) if hub.is_hub_id(model) else {path.name for path in folder.iterdir()}
    needed = _weight_files(model, folder, file_names)
    for name in needed:
        if name not in file_names:
            raise ValueError(f"--model {model}: {INDEX} names {name}, which is not there; copy it too")
    present = [name for name in needed if (folder / name).exists()]
    for name in present:
        try:
            with safe_open(folder / name, "np"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"--model {model}: {name} is no whole safetensors file ({error}); copy or {SAVE}"
            ) from error
    return present == needed


def _weight_files(model: str, folder: Path, file_names: set[str]) -> list[str]:
    """Return the names of the weight files that Transformers would load."""
    if WEIGHTS in file_names:
        return [WEIGHTS]
    if INDEX in file_names:
        try:
            shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"--model {model}: {INDEX} cannot be read ({error}); copy it again") from error
        return sorted(map(str, shards))
    pickles = sorted(name for name in file_names if Path(name).suffix in PICKLES)
    if pickles:
        raise ValueError(f"--model {model}: {pickles[0]} is a pickle, which can run code and is not loaded; {SAVE}")
    raise NoWeights(f"--model {model}: no weights in it; give a folder that save_pretrained wrote")
