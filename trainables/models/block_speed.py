"""How fast a CPU computes a block in bfloat16: some have instructions for it, the others are slower by far."""

import statistics
import time
from collections.abc import Sequence

import torch

from strategies.base import Site

ENOUGH = 1.3
MOST_TOKENS, REPEATS = 256, 3


def bfloat16_gain(sites: Sequence[Site], tokens: int) -> float:
    """Return how many times faster a block's products are in bfloat16, forward and backward, than in float32.

    Args:
        sites: All of a model; those of the lowest block are measured.
        tokens: Of a pass; more than ``MOST_TOKENS`` are measured as these.
    """
    first = min(site.depth for site in sites)
    shapes = [(site.d_in, site.d_out) for site in sites if site.depth == first]
    rows = min(tokens, MOST_TOKENS)
    slow, fast = (_seconds(shapes, rows, dtype) for dtype in (torch.float32, torch.bfloat16))
    return slow / fast


def _seconds(shapes: Sequence[tuple[int, int]], tokens: int, dtype: torch.dtype) -> float:
    """Return the median time of one forward and one backward product with each matrix."""
    parts = [(torch.rand(tokens, d_in).to(dtype), torch.rand(d_out, d_in).to(dtype)) for d_in, d_out in shapes]
    taken = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        for x, weight in parts:
            (x @ weight.t()) @ weight
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])  # the first finds its kernels
