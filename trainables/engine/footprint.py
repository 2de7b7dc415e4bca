"""How much memory a trial takes, before a weight is loaded: a pass is computed of which nothing is there but shapes."""

import functools
import logging
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from analysis.results.messages import first_line
from strategies.base import Site
from trainables.engine.adapter_store import Factors, padded
from trainables.engine.recomputation import recomputed
from trainables.engine.stacked_adapters import adapted
from trainables.engine.torch_compat import is_to_another_dtype, storage_id
from trainables.models.base_model import Shape, is_saved_quantized, skeleton_of
from trainables.models.device import device_of
from trainables.models.precision import NF4, NF4_BITS, Dtype, Precision
from trainables.training.frozen_head import LEAST_ROWS, FrozenHeadLoss

FLOAT_BYTES = 4
LIBRARY_BYTES = 80_000_000
"""Of libraries that are read as a process loads a model and trains, on a CPU."""
FRAGMENTED = 1.15
"""Memory that the C library takes for a pass on a CPU, over what is in use."""
TOKENS_OF_HEAD = 64
LOGIT_BYTES = 12
"""Of a logit that is held: in float32 as it is, as a probability, and its gradient."""
ROUNDED_BYTES = 2
"""Of a logit of a chunk in bfloat16: as it is computed, and as its gradient is multiplied."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory in bytes.

    Args:
        base: Of the base, and of a matrix that is taken out of four bits.
        trial: Of each trial's adapter, its gradients, and what passes are given of it.
        moments: Of each trial's optimizer.
        row: Of each row of a pass.
        row_recomputed: The same if blocks compute twice.
        head: Of each row's logits, as far as they are held at a time.
        most_head: Of the largest chunk of logits.
    """

    base: int
    trial: int
    moments: int
    row: int
    row_recomputed: int
    head: int = 0
    most_head: int = 0

    def of_pass(self, rows: int, recomputes: bool) -> int:
        """Return what a pass of so many rows takes, those of all its trials together."""
        return rows * (self.row_recomputed if recomputes else self.row) + min(rows * self.head, self.most_head)

    def total(self, trials: int, rows: int, recomputes: bool) -> int:
        """Return what a process takes that trains so many trials, of so many rows each in a pass."""
        return self.base + trials * (self.trial + self.moments) + self.of_pass(trials * rows, recomputes)


@dataclass(frozen=True, slots=True)
class Fit:
    """How trials are trained in a given memory.

    Args:
        trials: In a pack.
        rows: Of a trial in a pass.
        recomputes: Whether blocks compute twice.
        bytes: What that takes.
    """

    trials: int
    rows: int
    recomputes: bool
    bytes: int


def fit(
    footprint: Footprint, available: float, batch_size: int, trials: int, rows: int, recomputes: bool | None
) -> Fit | None:
    """Return how so many trials fit into a memory: smaller passes first, then blocks that compute twice.

    Args:
        footprint: Of the model.
        available: Memory, in bytes.
        batch_size: Rows of an optimizer step.
        trials: In a pack.
        rows: Most rows of a trial in a pass.
        recomputes: Whether blocks compute twice; None decides by memory.

    Returns:
        The first that fits; None if nothing does.
    """
    divisors = [count for count in range(rows, 0, -1) if batch_size % count == 0]
    for twice in (False, True) if recomputes is None else (recomputes,):
        for count in divisors:
            if (needed := footprint.total(trials, count, twice)) <= available:
                return Fit(trials, count, twice, needed)
    return None


def footprint_of(model: str, shape: Shape, precision: Precision, device: str, params: int, length: int) -> Footprint:
    """Return the footprint of a model's trials.

    Args:
        model: As ``Workload.model``.
        shape: Its shape.
        precision: How it will lie in memory.
        device: Name of the device.
        params: Of a trial's row in a pack, as ``row_params``.
        length: Tokens of a row.

    Raises:
        ValueError: The model cannot be computed without its weights.
    """
    if is_saved_quantized(model):
        precision = replace(precision, quantize=NF4)
    once, twice, logits = _pass_bytes(model, precision.dtype, device, _rank(shape.sites, params), length)
    apart, vocabulary = device_of(device).has_own_memory, logits // length
    logit = FLOAT_BYTES + (0 if device_of(device).arithmetic == "float32" else ROUNDED_BYTES)
    return Footprint(
        base=base_bytes(shape, precision) + (0 if apart else LIBRARY_BYTES),
        trial=4 * FLOAT_BYTES * params,  # values, gradients, scales, and the values as passes take them
        moments=2 * FLOAT_BYTES * params,
        row=int(once * (1.0 if apart else FRAGMENTED)),
        row_recomputed=twice,
        head=logit * logits if apart else 0,  # on a CPU chunks are small
        most_head=logit * max(device_of(device).head_elements, LEAST_ROWS * vocabulary),
    )


def row_params(sites: Sequence[Site], trials: Sequence[Mapping[str, int]], device: str) -> int:
    """Return the numbers in a row of a pack: of each site the largest rank of its trials, as the device pads it."""
    ranks = {site: max(trial.get(site.name, 0) for trial in trials) for site in sites}
    return sum(padded(rank, device_of(device).rank_multiple) * site.cost for site, rank in ranks.items())


def base_bytes(shape: Shape, precision: Precision) -> int:
    """Return what a base takes: its matrices, all else, and one matrix out of four bits."""
    width = torch.finfo(precision.torch_dtype).bits // 8
    if precision.quantize is None:
        return width * shape.params
    sizes = [site.d_in * site.d_out for site in shape.sites]
    return int(NF4_BITS / 8 * sum(sizes)) + width * (shape.params - sum(sizes) + max(sizes))


def _rank(sites: Sequence[Site], params: int) -> int:
    return max(1, math.ceil(params / sum(site.cost for site in sites)))


@functools.lru_cache(maxsize=16)
def _pass_bytes(model: str, dtype: Dtype, device: str, rank: int, length: int) -> tuple[int, int, int]:
    """Return the peak of one row's forward and backward pass, and of one whose blocks compute twice.

    The third number is how many logits are computed in parts for a row, whose memory is in neither.
    """
    try:
        with _without_its_log(), FakeTensorMode(allow_non_fake_inputs=True):
            row = _Pass(skeleton_of(model, Precision(dtype).torch_dtype), rank)
            apart, vocabulary = row.head_is_apart(), len(row.model.get_output_embeddings().weight)
            held = 0 if apart else LOGIT_BYTES * length * vocabulary
            peaks = row.peak(length, False, device), row.peak(length, True, device)
            return held + peaks[0], held + peaks[1], length * vocabulary if apart else 0
    except Exception as error:  # a model's code raises anything for tensors that are not there
        reason = first_line(error)
        raise ValueError(f"--model {model}: its memory cannot be known before it is loaded ({reason})") from error


@contextmanager
def _without_its_log() -> Iterator[None]:
    """Keep PyTorch from printing, with a traceback, what it raises as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


class _Pass:
    """A pass through a model without weights, with one trial's adapters of one rank at all sites."""

    def __init__(self, skeleton: Any, rank: int) -> None:
        self.model, (self.sites, self.blocks) = skeleton
        self.factors = {site.name: _factors(site, rank) for site in self.sites}

    def head_is_apart(self) -> bool:
        """Return True if logits are computed in parts, since the head stands alone."""
        head, body, changes = self.model.get_output_embeddings(), self.model.base_model, _Changes()
        handles = [
            body.register_forward_hook(lambda *_: changes.look(True)),
            head.register_forward_pre_hook(lambda *_: changes.look(False)),
            head.register_forward_hook(lambda *_: changes.look(True)),
        ]
        try:
            with torch.no_grad(), changes:
                self.model(input_ids=torch.zeros(1, 2, dtype=torch.long))
        finally:
            for handle in handles:
                handle.remove()
        return not changes.seen and body is not self.model

    def peak(self, length: int, recomputes: bool, device: str) -> int:
        head = self.model.get_output_embeddings().weight
        few = head.new_zeros(TOKENS_OF_HEAD, head.shape[1])  # chunks of logits are as large for any vocabulary
        ids = torch.zeros(1, length, dtype=torch.long)
        live = LiveBytes()
        live.leave_out([*self.model.parameters(), *self.model.buffers(), few])
        blocks = [self.model.get_submodule(name) for name in self.blocks] if recomputes else []
        with ExitStack() as contexts:
            for context in (live, recomputed(blocks, ()), adapted(self.model, self.factors)):
                contexts.enter_context(context)
            with _autocast(device):
                hidden = self.model.base_model(input_ids=ids)[0][:, :-1]
                hidden = hidden.reshape(-1, hidden.shape[-1])
                losses = FrozenHeadLoss.apply(hidden, few, None, torch.zeros(len(hidden), dtype=torch.long))  # type: ignore[no-untyped-call]
            losses.sum().backward()
        return live.peak


class _Changes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether anything but the head is computed between the last hidden state and the logits, such as a cap."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.looking, self.seen = False, False

    def look(self, looking: bool) -> None:
        """Look from now on, or not."""
        self.looking = looking

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute an operation; another dtype or view of the logits is no change."""
        computes = func.namespace == "aten" and not func.is_view and not is_to_another_dtype(func)
        self.seen |= self.looking and computes
        return func(*args, **(kwargs or {}))


def _factors(site: Site, rank: int) -> Factors:
    down, up = torch.zeros(1, rank, site.d_in), torch.zeros(1, rank, site.d_out)
    gradients = torch.zeros_like(down), torch.zeros_like(up)
    return Factors(down.requires_grad_(), up.requires_grad_(), gradients)


def _autocast(device: str) -> Any:
    """Return autocast as on the device; no pass is computed there."""
    return torch.autocast("cpu", torch.bfloat16, enabled=device_of(device).arithmetic != "float32")


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of tensors that live, and notes the most that there was at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self._sizes: dict[int, int] = {}

    def leave_out(self, tensors: Sequence[torch.Tensor]) -> None:
        """Count some tensors' memory as none."""
        self._sizes |= {storage_id(tensor.untyped_storage()): 0 for tensor in tensors}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute an operation and count what it returns."""
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage_id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._discount, key)

    def _discount(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
