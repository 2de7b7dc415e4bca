"""The frozen base: the bundled model, a local directory or a hub id, loaded once per process."""

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, logging
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from strategies.base import Site

logging.set_verbosity_error()  # what matters is raised here, in one line

BUNDLED = Path(__file__).parent / "assets" / "base"
ATTENTION = re.compile(r"att", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen causal language model in evaluation mode.

    Args:
        model: The Hugging Face model, float32, no parameter requiring a gradient.
        tokenizer: Its tokenizer, with a pad token.
        sites: The matrices that can carry an adapter.
        params: Parameters of the model, tied ones once.
        device: ``cpu`` or ``cuda``.
        separable_head: Whether the logits are the output embedding of the last hidden state and nothing else.
    """

    model: Any
    tokenizer: Any
    sites: tuple[Site, ...]
    params: int
    device: str
    separable_head: bool

    @property
    def pad_id(self) -> int:
        """The id that fills up a row; it is masked, so any will do."""
        return int(self.tokenizer.pad_token_id or 0)


def resolve(model: str) -> str:
    """Return the directory or hub id behind a ``--model`` value.

    Raises:
        ValueError: A path that exists but holds no model, or that looks like a path and does not exist.
    """
    if model == "bundled":
        return str(BUNDLED)
    path = Path(model)
    if path.exists():
        if not (path / "config.json").is_file():
            raise ValueError(f"--model {model}: no config.json in it; give a saved Hugging Face model or a hub id")
        return str(path.resolve())
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ValueError(f"--model {model}: no such directory; give a saved Hugging Face model or a hub id")
    return model


def sites_of(model: Any) -> tuple[Site, ...]:
    """List the linear layers inside the blocks of ``model``, in its own order.

    The output embedding and anything outside a numbered block are left out. A layer is attention if a part of its name
    says so, else MLP.

    Raises:
        ValueError: There is no such layer.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    sites = []
    for name, module in model.named_modules():
        depth = next((int(part) for part in name.split(".") if part.isdigit()), None)
        if depth is None or module is output:
            continue
        if isinstance(module, Conv1D):
            d_in, d_out = module.weight.shape
        elif isinstance(module, torch.nn.Linear):
            d_out, d_in = module.weight.shape
        else:
            continue
        kind = "attention" if ATTENTION.search(name.rsplit(f".{depth}.", 1)[-1]) else "mlp"
        sites.append(Site(name, int(d_in), int(d_out), depth, kind))  # type: ignore[arg-type]
    if not sites:
        raise ValueError(f"{type(model).__name__} has no linear or Conv1D layer in a numbered block to adapt")
    return tuple(sites)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's configuration alone tells: sites, parameters, context and vocabulary in tokens."""

    sites: tuple[Site, ...]
    params: int
    context: int
    vocabulary: int


def shape_of(model: str) -> Shape:
    """Read the shapes of a model without its weights (on the meta device).

    Raises:
        ValueError: It is no causal language model that can be built, or it has nothing to adapt.
    """
    location = resolve(model)
    try:
        config = AutoConfig.from_pretrained(location)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--model {model}: no causal language model that loads ({_first_line(error)})") from error
    context = int(getattr(config, "max_position_embeddings", 1024) or 1024)
    try:
        sites = sites_of(skeleton)
    except ValueError as error:
        raise ValueError(f"--model {model}: {error}") from error
    vocabulary = skeleton.get_input_embeddings().num_embeddings
    return Shape(sites, sum(p.numel() for p in skeleton.parameters()), context, vocabulary)


def check_weights(model: str) -> None:
    """Look at a local model's weight files without loading them; a hub model's are not there yet.

    Raises:
        ValueError: There are none, or one is cut off.
    """
    location = Path(resolve(model))
    if not location.is_dir():
        return
    files = [path for path in location.iterdir() if path.suffix in {".safetensors", ".bin"}]
    if not files:
        raise ValueError(f"--model {model}: no weights in it; give a folder that save_pretrained wrote")
    for path in files:
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt"):
                    pass
            except SafetensorError as error:
                raise ValueError(f"--model {model}: {path.name} is no whole safetensors file ({error})") from error


@functools.lru_cache(maxsize=1)
def load_tokenizer(model: str) -> Any:
    """Load the tokenizer and give it a pad token (its end-of-text token) if it has none.

    Raises:
        ValueError: There is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(model))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--model {model}: no tokenizer that loads ({_first_line(error)})") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


@functools.lru_cache(maxsize=1)
def load(model: str, device: str = "cpu") -> BaseModel:
    """Load a base model; a second call in the same process returns the same object.

    Raises:
        ValueError: The weights do not load, or there is nothing to adapt.
    """
    try:
        network, info = AutoModelForCausalLM.from_pretrained(
            resolve(model), dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"--model {model}: its weights do not load ({_first_line(error)})") from error
    if info["missing_keys"]:
        raise ValueError(
            f"--model {model}: its weights lack {min(info['missing_keys'])}; do they belong to its config?"
        )
    network.requires_grad_(False)
    _fuse_activations(network)
    network.config.use_cache = False
    network.eval().to(device)
    params = sum(parameter.numel() for parameter in network.parameters())
    return BaseModel(network, load_tokenizer(model), sites_of(network), params, device, separable_head(network))


def _fuse_activations(network: Any) -> None:
    """Replace GPT-2's GELU, eight passes over memory in Python, by PyTorch's own of the same formula."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


@torch.inference_mode()
def separable_head(network: Any) -> bool:
    """Say whether the logits are the output embedding of the last hidden state: some models cap or scale them."""
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        return False
    ids = torch.arange(4, device=network.device).view(1, 4) % network.config.vocab_size
    return torch.allclose(head(network.base_model(ids).last_hidden_state), network(ids).logits)


@functools.lru_cache
def identity(model: str) -> str:
    """Return a SHA-256 over a local model's files, or the id itself for a hub model."""
    location = Path(resolve(model))
    if not location.is_dir():
        return str(model)
    digest = hashlib.sha256()
    for path in sorted(location.iterdir()):
        if path.suffix in {".safetensors", ".bin", ".json"}:
            digest.update(path.name.encode() + _sha256(path))
    return digest.hexdigest()


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:  # a shard may be larger than the memory that is left
        return hashlib.file_digest(file, "sha256").digest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
