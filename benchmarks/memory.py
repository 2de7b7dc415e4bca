"""How much memory trials take while they run."""

import threading
import time
from types import TracebackType
from typing import Self

import psutil
import torch

from tuning.cluster import ray_compat

EVERY_SECONDS = 0.2


class Meter:
    """Context manager that measures peak memory in bytes: of Ray's busy processes together, or of the GPU.

    On CPU it is proportional set size: a page that several processes share is counted once in all. Linux only.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self.peak, self._bytes_in_use = 0, _gpu_bytes if device == "cuda" else _process_bytes
        self._done, self._thread = threading.Event(), threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        while self._bytes_in_use is _process_bytes and _process_bytes():  # of an earlier search, about to end
            time.sleep(EVERY_SECONDS)
        self._bytes_before = self._bytes_in_use()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(EVERY_SECONDS):
            self.peak = max(self.peak, self._bytes_in_use() - self._bytes_before)


def _process_bytes() -> int:
    total = 0
    for process in psutil.process_iter():
        try:
            title = process.cmdline()
            if title and ray_compat.is_at_work(title[0]):
                total += process.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


def _gpu_bytes() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free
