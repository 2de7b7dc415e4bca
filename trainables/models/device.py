"""The devices that trials train on: the only file that spells one out. Imports torch where it is used."""

import contextlib
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a wrong flag should not take as long to be named as torch to be imported
    import torch

CPU, CUDA, MPS = "cpu", "cuda", "mps"


class Graphs(Protocol):
    """Captures what a device is asked to do, and asks it again at once."""

    def warm_up(self, work: "Callable[[], torch.Tensor]") -> "torch.Tensor":
        """Do work, as it must have been done before it is captured."""
        ...

    def capture(self, work: "Callable[[], torch.Tensor]") -> "Callable[[], torch.Tensor]":
        """Note what work asks of the device, and do none of it.

        Returns:
            Does it, on whatever its memory holds by then; each time the result is the same tensor.

        Raises:
            RuntimeError: It cannot be captured: it waits for the device, goes by numbers on it, or memory is short.
        """
        ...

    def forget(self) -> None:
        """Begin with other memory: nothing that was captured is asked for any more."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """A CPU, and what others do as it does.

    Args:
        name: As PyTorch names it.
    """

    name: str

    @property
    def has_own_memory(self) -> bool:
        """Whether it is no CPU, whose memory and caches a pack shares with all else."""
        return False

    @property
    def head_elements(self) -> int:
        """Logits that are held at a time; on a CPU they stay in its cache."""
        return 2**19

    def bucket(self, tokens: int) -> int:
        """Return the tokens that a pass is filled up to, so that few shapes occur; a CPU computes any as well."""
        return tokens

    @property
    def rank_multiple(self) -> int:
        """What a pack pads ranks to a multiple of: its products are fast or slow by their shapes."""
        return 1

    @property
    def arithmetic(self) -> str:
        """The dtype of a training pass over a float32 base, in words."""
        return "float32"

    @property
    def has_bfloat16(self) -> bool | None:
        """Whether it has instructions for bfloat16; None if this process does not see it."""
        try:
            return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:  # not on Linux
            return False

    def autocast(self) -> Any:
        """Return a context in which a training pass over a float32 base computes."""
        return contextlib.nullcontext()

    def rng_state(self) -> "torch.Tensor":
        """Return the state of the generator that draws on the device."""
        import torch

        return torch.get_rng_state()

    def set_rng_state(self, state: "torch.Tensor") -> None:
        """Put a state from ``rng_state`` back."""
        import torch

        torch.set_rng_state(state)

    def generator(self) -> "torch.Generator":
        """Return a generator of its own that draws on the device."""
        import torch

        return torch.Generator(self.name)

    def peak_bytes(self) -> int:
        """Return this process's peak memory: resident, or of the device."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux

    def forget_peak(self) -> None:
        """Have ``peak_bytes`` begin anew where the device can; a CPU's process cannot."""

    def available_bytes(self) -> int:
        """Return the memory that this process has and could still get."""
        import psutil

        from trainables.models.free_memory import free_bytes

        return int(free_bytes() + psutil.Process().memory_info().rss)

    def total_bytes(self) -> float:
        """Return the memory that it has; 0 of a CPU, which others use, too."""
        return 0.0

    def release_memory(self) -> None:
        """Give back memory that is cached and not in use."""

    def synchronize(self) -> None:
        """Wait until all that was asked for is computed."""

    @property
    def queues(self) -> bool:
        """Whether it works on its own while Python goes on, so that the next pass may be made ready meanwhile."""
        return False

    def ready(self, numbers: "torch.Tensor") -> "torch.Tensor":
        """Return numbers of the host where the device gets them without anybody waiting."""
        return numbers

    def graphs(self) -> "Graphs | None":
        """Return what captures work and does it again without its launches; None if the device cannot."""
        return None

    def place(self, network: Any) -> Any:
        """Move a model or a tensor to the device, and return it."""
        return network.to(self.name)


class Cuda(Device):
    """A GPU of CUDA, or of ROCm, which PyTorch calls so, too: bfloat16 autocast, never float16."""

    __slots__ = ()

    @property
    def has_own_memory(self) -> bool:
        """It has."""
        return True

    @property
    def head_elements(self) -> int:
        """As ``Device.head_elements``."""
        return 2**27

    def bucket(self, tokens: int) -> int:
        """As ``Device.bucket``: four sizes between a power of two and the next, of which the least is 16."""
        step = max(16, 1 << max(0, (tokens - 1).bit_length() - 3))
        return -(-tokens // step) * step

    @property
    def rank_multiple(self) -> int:
        """As ``Device.rank_multiple``; tensor cores take eight numbers of bfloat16 at a time."""
        return 8

    @property
    def arithmetic(self) -> str:
        """As ``Device.arithmetic``."""
        return "bfloat16 autocast"

    @property
    def has_bfloat16(self) -> bool | None:
        """As ``Device.has_bfloat16``; of one that only emulates it, no."""
        import torch

        return torch.cuda.get_device_capability()[0] >= 8 if torch.cuda.is_available() else None

    def autocast(self) -> Any:
        """As ``Device.autocast``."""
        import torch

        return torch.autocast(self.name, torch.bfloat16)

    def rng_state(self) -> "torch.Tensor":
        """As ``Device.rng_state``."""
        import torch

        return torch.cuda.get_rng_state()

    def set_rng_state(self, state: "torch.Tensor") -> None:
        """As ``Device.set_rng_state``."""
        import torch

        torch.cuda.set_rng_state(state)

    def peak_bytes(self) -> int:
        """As ``Device.peak_bytes``."""
        import torch

        return torch.cuda.max_memory_allocated()

    def forget_peak(self) -> None:
        """As ``Device.forget_peak``."""
        import torch

        torch.cuda.reset_peak_memory_stats()

    def available_bytes(self) -> int:
        """As ``Device.available_bytes``."""
        import torch

        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())

    def total_bytes(self) -> float:
        """As ``Device.total_bytes``."""
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)

    def release_memory(self) -> None:
        """As ``Device.release_memory``."""
        import torch

        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """As ``Device.synchronize``."""
        import torch

        torch.cuda.synchronize()

    @property
    def queues(self) -> bool:
        """It does."""
        return True

    def ready(self, numbers: "torch.Tensor") -> "torch.Tensor":
        """As ``Device.ready``."""
        return numbers.pin_memory()

    def graphs(self) -> "Graphs | None":
        """As ``Device.graphs``."""
        return CudaGraphs()


class CudaGraphs:
    """Captures work as CUDA graphs, whose memory they share: they run one after the other, and keep only results."""

    def __init__(self) -> None:
        import torch

        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: "Callable[[], torch.Tensor]") -> "torch.Tensor":
        """As ``Graphs.warm_up``, on the stream on which it will be captured: libraries keep memory for each."""
        import torch

        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return work()
        finally:  # what is done after an error must wait, too
            current.wait_stream(self._stream)

    def capture(self, work: "Callable[[], torch.Tensor]") -> "Callable[[], torch.Tensor]":
        """As ``Graphs.capture``.

        A capture that fails may cost this process memory: some versions of PyTorch keep what it had, and some go on as
        if it were still under way, and then give back none when it is short. So memory is looked at before.
        """
        import torch

        self._check_room()
        graph = torch.cuda.CUDAGraph()
        # a capture that fails to end leaves its stream the current one, unless it is made that around it, too; with
        # "global" it would fail where another thread writes a checkpoint meanwhile
        with (
            torch.cuda.stream(self._stream),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = work()

        def replay() -> "torch.Tensor":
            graph.replay()
            return result

        return replay

    def forget(self) -> None:
        """As ``Graphs.forget``; PyTorch allows no graph to share the memory of graphs that are all gone."""
        import torch

        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def _check_room() -> None:
        """Raise if less memory is free than the largest pass so far took, beside what stays."""
        import torch

        in_use = torch.cuda.memory_allocated()
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - in_use
        if free < (needed := torch.cuda.max_memory_allocated() - in_use):
            raise RuntimeError(f"{free / 1e6:,.0f} MB of memory are free, and it may take {needed / 1e6:,.0f}")


class Mps(Device):
    """The GPU of an Apple chip. It shares memory with the CPU, and computes in float32."""

    __slots__ = ()

    @property
    def has_own_memory(self) -> bool:
        """In so far as its rows need not be few."""
        return True

    @property
    def head_elements(self) -> int:
        """As ``Device.head_elements``."""
        return 2**24

    @property
    def has_bfloat16(self) -> bool | None:
        """As ``Device.has_bfloat16``; it is not used."""
        return False

    def rng_state(self) -> "torch.Tensor":
        """As ``Device.rng_state``."""
        import torch

        return torch.mps.get_rng_state()

    def set_rng_state(self, state: "torch.Tensor") -> None:
        """As ``Device.set_rng_state``."""
        import torch

        torch.mps.set_rng_state(state)

    def release_memory(self) -> None:
        """As ``Device.release_memory``."""
        import torch

        torch.mps.empty_cache()

    def synchronize(self) -> None:
        """As ``Device.synchronize``."""
        import torch

        torch.mps.synchronize()


KINDS: dict[str, type[Device]] = {CPU: Device, CUDA: Cuda, MPS: Mps}


def device_of(name: str) -> Device:
    """Return the device that PyTorch calls so.

    Raises:
        ValueError: None of ours is called so.
    """
    if name not in KINDS:
        raise ValueError(f"device {name}: must be one of {', '.join(KINDS)}")
    return KINDS[name](name)


def given_by(gpus: object) -> str:
    """Return the name of the device of a process that was given so many GPUs: a number, their list, or ``mps``."""
    return MPS if gpus == MPS else CUDA if gpus else CPU


def is_apple() -> bool:
    """Return True on a machine that may have the GPU of an Apple chip; others need no torch to know that."""
    return sys.platform == "darwin"


def here() -> Device:
    """Return the best device that this process sees."""
    import torch

    if torch.cuda.is_available():
        return device_of(CUDA)
    return device_of(MPS if torch.backends.mps.is_available() else CPU)
