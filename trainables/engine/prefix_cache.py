"""Outputs of the blocks below the first adapter: equal in every trial and epoch, so computed once per example."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from strategies.base import Site
from trainables.data.collate import Batch, collate
from trainables.data.splits import Example
from trainables.engine.sequence_packing import Lanes

LIMIT_BYTES = 2**30


class _StopForward(Exception):
    """Ends a forward pass once the wanted blocks are computed."""


class FrozenPrefix:
    """Hidden states at the input of a block, cached per example.

    The base is frozen, in evaluation mode and causal, rows are padded on the right and kept apart: below the
    first adapter, the states depend on the example alone.

    Args:
        model: The Hugging Face model.
        sites: Its sites; their names contain those of the blocks.
        pad_id: Pads rows.
        device: The model's.
        limit_bytes: Size of the cache; beyond it states are computed in each pass, still once for all its trials.
    """

    def __init__(
        self, model: Any, sites: Sequence[Site], pad_id: int, device: str, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self.model, self.pad_id, self.device = model, pad_id, device
        names = {site.depth: site.name.split(f".{site.depth}.")[0] + f".{site.depth}" for site in sites}
        self.blocks = [model.get_submodule(names[depth]) for depth in sorted(names)]
        self.left_bytes = limit_bytes
        self._cache: dict[tuple[int, Example], torch.Tensor] = {}

    @contextmanager
    def skipped(self, depth: int, examples: Sequence[Example], lanes: Lanes) -> Iterator[None]:
        """Skip the blocks below ``depth``; the inputs must be ``examples``, as laid out in ``lanes``."""
        if depth == 0:
            yield
            return
        states = lanes.spread(self._states(depth, examples))
        hook = self.blocks[depth].register_forward_pre_hook(
            lambda block, args, kwargs: ((states, *args[1:]), kwargs), with_kwargs=True
        )
        for block in self.blocks[:depth]:
            block.forward = lambda hidden_states, *args, **kwargs: hidden_states
        try:
            yield
        finally:
            hook.remove()
            for block in self.blocks[:depth]:
                del block.forward

    def _states(self, depth: int, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return (length, width) of each example."""
        missing = [example for example in dict.fromkeys(examples) if (depth, example) not in self._cache]
        fresh = self._compute(depth, missing) if missing else {}
        states = [fresh[e] if e in fresh else self._cache[depth, e] for e in examples]
        for example, state in fresh.items():
            size = state.numel() * state.element_size()
            if size <= self.left_bytes:
                self._cache[depth, example] = state
                self.left_bytes -= size
        return states

    def _compute(self, depth: int, examples: Sequence[Example]) -> dict[Example, torch.Tensor]:
        batch: Batch = collate(examples, self.pad_id, self.device)
        captured: list[torch.Tensor] = []

        def stop(block: Any, args: tuple[torch.Tensor, ...]) -> None:
            captured.append(args[0])
            raise _StopForward

        hook = self.blocks[depth].register_forward_pre_hook(stop)
        try:
            # not inference mode: the states will be inputs of training passes
            with torch.inference_mode(False), torch.no_grad():
                self.model.base_model(**batch.inputs)
        except _StopForward:
            pass
        finally:
            hook.remove()
        return {e: state[: len(e.input_ids)].clone() for e, state in zip(examples, captured[0], strict=True)}
