"""The frozen base: the bundled model, a local directory or a hub id, loaded once per process."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, logging
from transformers.activations import NewGELUActivation

from analysis.results.messages import first_line
from strategies.base import Site
from trainables.models import hub
from trainables.models.context import Context
from trainables.models.coverage import Coverage
from trainables.models.coverage import Shape as Shape
from trainables.models.device import CPU, device_of
from trainables.models.files import resolve
from trainables.models.frozen_linear import FrozenLinear
from trainables.models.matrices import coverage_of
from trainables.models.precision import IN_FLOAT32, Precision, check_saved
from trainables.models.probes import Joining, joining, looks_back_only, separable_head
from trainables.models.transformers_compat import without_warning_of_padding

logging.disable_progress_bar()
logging.set_verbosity_error()  # errors are raised by this module, in one line

CHAT_TEMPLATE = "chat_template.jinja"
"""File of a tokenizer that Transformers reads its template from."""
CAUSAL = re.compile(r"(CausalLM|LMHeadModel)$")
UNTRUSTED: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}  # a model's code never runs


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen causal language model in evaluation mode.

    Args:
        model: The Hugging Face model, no parameter requiring a gradient.
        tokenizer: Its tokenizer, with a pad token.
        coverage: Which matrices can carry an adapter, and why the others cannot.
        params: Parameters of the model, tied ones once.
        device: Name of the device that it lies on.
        separable_head: Whether the logits are the output embedding of the last hidden state and nothing else.
        joining: What keeps rows apart that lie end to end; None if nothing does.
        precision: How it lies in memory.
    """

    model: Any
    tokenizer: Any
    coverage: Coverage
    params: int
    device: str
    separable_head: bool
    joining: Joining | None
    precision: Precision = IN_FLOAT32

    @property
    def sites(self) -> tuple[Site, ...]:
        """The matrices that can carry an adapter."""
        return self.coverage.sites

    @property
    def arithmetic(self) -> str:
        """What a training pass computes in, in words."""
        return device_of(self.device).arithmetic if self.precision.exact else str(self.precision)

    @property
    def pad_id(self) -> int:
        """The padding id; padding is masked, so any id will do that the embedding has: a pad token may be newer."""
        wanted = int(self.tokenizer.pad_token_id or 0)
        return wanted if wanted < self.model.get_input_embeddings().num_embeddings else 0

    def autocast(self) -> Any:
        """Return a context in which a training pass computes."""
        return device_of(self.device).autocast()

    @property
    def computes_in(self) -> torch.dtype:
        """The dtype of a training pass."""
        with self.autocast():
            autocast = torch.is_autocast_enabled(self.device)
            dtype: torch.dtype = torch.get_autocast_dtype(self.device) if autocast else self.model.dtype
        return dtype

    def weight(self, site: Site) -> torch.Tensor:
        """Return a site's matrix in float32, (d_out, d_in), not copied where it is stored so."""
        return FrozenLinear(self.model.get_submodule(site.name)).dequantize(torch.float32).t()


def shape_of(model: str) -> Shape:
    """Read the shapes of a model without its weights (on the meta device).

    Raises:
        ValueError: It is no causal language model that can be built, or it has nothing to adapt.
    """
    location = resolve(model, weights=False)
    try:
        config = AutoConfig.from_pretrained(location, **UNTRUSTED)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # a configuration can contain anything, and libraries raise anything for it
        raise ValueError(
            f"--model {model}: no causal language model that loads ({_reason(error)}); give a saved one"
        ) from error
    _check_architecture(model, config, type(skeleton).__name__)
    try:
        coverage = coverage_of(skeleton)
    except ValueError as error:
        raise ValueError(f"--model {model}: {error}") from error
    vocabulary = skeleton.get_input_embeddings().num_embeddings
    return Shape(coverage, sum(p.numel() for p in skeleton.parameters()), Context.of(config), vocabulary)


def skeleton_of(model: str, dtype: torch.dtype) -> tuple[Any, tuple[tuple[Site, ...], tuple[str, ...]]]:
    """Return a model as its configuration has it, and its sites and blocks; its weights are whatever PyTorch makes now.

    Call it where tensors are made without memory.
    """
    config = AutoConfig.from_pretrained(resolve(model, weights=False), **UNTRUSTED)
    network = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    network.requires_grad_(False).eval()
    network.config.use_cache = False
    coverage = coverage_of(network)
    return network, (coverage.sites, coverage.blocks)


def _check_architecture(model: str, config: Any, built: str) -> None:
    architectures = config.architectures or [built]
    if not any(name == built or CAUSAL.search(name) for name in architectures):
        raise ValueError(
            f"--model {model}: {architectures[0]} is no causal language model; give one that ends in ForCausalLM"
        )
    check_saved(model, getattr(config, "quantization_config", None))
    weights_file = getattr(config, "transformers_weights", None)
    if weights_file is not None:
        raise ValueError(
            f"--model {model}: its config.json takes weights from {weights_file}; call them model.safetensors"
        )


@functools.lru_cache(maxsize=1)
def load_tokenizer(model: str) -> Any:
    """Load the tokenizer and give it a pad token (its end-of-text token) if it has none.

    Raises:
        ValueError: No tokenizer exists.
    """
    tokenizer = _read_tokenizer(model)
    if len(tokenizer) < 2:  # Transformers makes an empty one if there are no files
        raise ValueError(f"--model {model}: no tokenizer in it; add its files, such as tokenizer.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _read_tokenizer(model: str) -> Any:
    location = resolve(model, weights=False)
    try:
        return AutoTokenizer.from_pretrained(location, **UNTRUSTED)
    except Exception as error:  # as above
        raise ValueError(f"--model {model}: no tokenizer that loads ({_reason(error)}); add its files") from error


def save_tokenizer(model: str, folder: Path) -> None:
    """Write a model's tokenizer as it came, chat template included."""
    _read_tokenizer(model).save_pretrained(str(folder))


def check_fit(model: str) -> None:
    """Check that a model's weights are those that its configuration asks for, without reading one (on the meta device).

    Raises:
        ValueError: One is missing or of another shape.
    """
    read_weights(model, device_map="meta")


def read_weights(model: str, **options: Any) -> Any:
    """Return a new model from safetensors, float32 unless said otherwise; ``options`` go to Transformers.

    Raises:
        ValueError: The weights do not load, one is missing or one has another shape.
    """
    location = resolve(model)
    try:
        network, info = AutoModelForCausalLM.from_pretrained(
            location, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True,
            **UNTRUSTED, **{"dtype": torch.float32, **options},
        )  # fmt: skip
    except Exception as error:  # as above
        raise ValueError(f"--model {model}: its weights do not load ({_reason(error)})") from error
    wrong = [f"lack {min(info['missing_keys'])}"] if info["missing_keys"] else []
    for name, actual, expected in sorted(info["mismatched_keys"]):
        wrong.append(f"have {name} of shape {tuple(actual)} for {tuple(expected)}")
    if wrong:
        raise ValueError(f"--model {model}: its weights {wrong[0]}; give those that belong to its config")
    return network


@functools.lru_cache(maxsize=1)
def load(model: str, device: str = CPU, precision: Precision = IN_FLOAT32) -> BaseModel:
    """Load a base model; a second call in the same process returns the same object.

    Raises:
        ValueError: The weights do not load, or there is nothing to adapt.
    """
    network = read_network(model, device, precision)
    if hub.is_hub_id(model):
        network.name_or_path, network.hub_commit = hub.split(model)  # an adapter names these, not a cache folder
    network.requires_grad_(False)
    _fuse_activations(network)
    without_warning_of_padding(network)
    network.config.use_cache = False
    device_of(device).place(network.eval())
    if not _looks_back_only(model, network):
        raise ValueError(f"--model {model}: its tokens see later ones; give a causal language model")
    params = params_of(network)
    properties = coverage_of(network), params, device, separable_head(network), joining(network), precision
    return BaseModel(network, load_tokenizer(model), *properties)


def _looks_back_only(model: str, network: Any) -> bool:
    """Return ``looks_back_only``, the first pass of a model: one whose sizes do not fit each other fails in it."""
    try:
        return looks_back_only(network)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"--model {model}: Transformers cannot compute four tokens with it ({_reason(error)}); correct its config"
        ) from error


def is_saved_quantized(model: str) -> bool:
    """Return True if a model's weights were saved in four bits."""
    config = AutoConfig.from_pretrained(resolve(model, weights=False), **UNTRUSTED)
    return getattr(config, "quantization_config", None) is not None


def read_network(model: str, device: str, precision: Precision) -> Any:
    """Return a new model as it is to lie in memory, where it is to lie if it is in four bits.

    Raises:
        ValueError: As ``read_weights``.
    """
    saved = is_saved_quantized(model)
    if not saved and precision.quantize is None:
        return read_weights(model, dtype=precision.torch_dtype)
    options = {"dtype": precision.torch_dtype} if saved else precision.loading
    network = read_weights(model, device_map={"": device}, **options)
    for module in network.modules():
        FrozenLinear(module).compute_in(precision.torch_dtype)
    return network


def dense(network: Any) -> Any:
    """Return a model with no weight in four bits; those that are become what they stand for."""
    return network.dequantize() if getattr(network, "is_loaded_in_4bit", False) else network


def params_of(network: Any) -> int:
    """Return the parameters of a model, tied ones once, whatever they are stored in."""
    packed = [FrozenLinear(module) for module in network.modules() if FrozenLinear.is_one(module)]
    sizes = {id(item.layer.weight): item.in_features * item.out_features for item in packed if item.quantized}
    return sum(sizes.get(id(parameter), parameter.numel()) for parameter in network.parameters())


def _fuse_activations(network: Any) -> None:
    """Replace GPT-2's GELU, eight passes over memory in Python, by PyTorch's own of the same formula."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def _reason(error: Exception) -> str:
    """Return the first line of an error, or a short reason if the model needs its own code."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is not run; give an architecture that Transformers has"
    return first_line(error)
