"""Gradient checkpointing: blocks keep their inputs alone for the backward pass, and compute the rest anew in it."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(blocks: Sequence[Any], generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Have blocks compute twice; what changes their layers must last until the backward pass is over.

    Args:
        blocks: Modules, none of which holds another.
        generators: Sources of random numbers that blocks draw from; the second time they give the same again.
    """
    for block in blocks:
        block.forward = functools.partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            preserve_rng_state=False,  # the base draws nothing itself
            context_fn=functools.partial(_both_times, generators),
        )
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _both_times(
    generators: Sequence[torch.Generator],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first and of the second time that one block computes."""
    states: list[torch.Tensor] = []
    return _noting(generators, states), _replaying(generators, states)


@contextmanager
def _noting(generators: Sequence[torch.Generator], states: list[torch.Tensor]) -> Iterator[None]:
    states.extend(generator.get_state() for generator in generators)
    yield


@contextmanager
def _replaying(generators: Sequence[torch.Generator], states: Sequence[torch.Tensor]) -> Iterator[None]:
    now = [generator.get_state() for generator in generators]
    try:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        yield
    finally:
        for generator, state in zip(generators, now, strict=True):
            generator.set_state(state)
