"""Outputs of the blocks below the first adapter: equal in every trial and epoch, so computed once per example."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from trainables.data.collate import Batch, collate
from trainables.data.splits import Example
from trainables.engine.device_errors import out_of_memory
from trainables.engine.sequence_packing import Lanes, arrange
from trainables.models.probes import rounding

LIMIT_BYTES = 2**30
TOLERANCE, ROUGH_TOLERANCE = 1e-4, 1e-2  # of the largest hidden state, in float32 and in bfloat16


class _StopForward(Exception):
    """Ends a forward pass once the wanted blocks are computed."""


class FrozenPrefix:
    """Hidden states at the input of a block, cached per example.

    The base is frozen, in evaluation mode and causal, rows are padded on the right and kept apart: below the
    first adapter, the states depend on the example alone.

    Args:
        model: The Hugging Face model.
        blocks: Names of its blocks, lowest first.
        pad_id: Pads rows.
        device: The model's.
        limit_bytes: Size of the cache; beyond it states are computed in each pass, still once for all its trials.
    """

    def __init__(
        self, model: Any, blocks: Sequence[str], pad_id: int, device: str, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self.model, self.pad_id, self.device = model, pad_id, device
        self.blocks = [model.get_submodule(name) for name in blocks]
        self._tuples: dict[int, int] = {}
        self._sound = {0: True}
        self.left_bytes = limit_bytes
        self._cache: dict[tuple[int, Example], torch.Tensor] = {}

    def states(self, depth: int, examples: Sequence[Example], lanes: Lanes) -> torch.Tensor | None:
        """Return what the blocks below ``depth`` make of ``examples`` as laid out in ``lanes``, (lanes, length, width).

        None if there are none below.
        """
        return lanes.spread(self._states(depth, examples)) if depth else None

    @contextmanager
    def skipped(self, depth: int, states: torch.Tensor | None) -> Iterator[None]:
        """Skip the blocks below ``depth``; the inputs must be those of the ``states``."""
        if states is None:
            yield
            return
        hook = self.blocks[depth].register_forward_pre_hook(
            lambda block, args, kwargs: ((states, *args[1:]), kwargs), with_kwargs=True
        )
        for number, block in enumerate(self.blocks[:depth]):
            block.forward = functools.partial(_pass_on, self._tuples.get(number))
        try:
            yield
        finally:
            hook.remove()
            for block in self.blocks[:depth]:
                del block.forward

    def is_sound(self, depth: int, examples: Sequence[Example]) -> bool:
        """Return True if a pass that skips the blocks below ``depth`` gives what a whole one gives.

        It does not where later blocks use more of these than their output, such as keys and values, or where blocks
        pass on several streams (Gemma 3n does both). Looked at once for each depth, on the examples given first.
        """
        if depth not in self._sound:
            self._sound[depth] = self._agrees(depth, examples)
        return self._sound[depth]

    def _agrees(self, depth: int, examples: Sequence[Example]) -> bool:
        lanes = arrange([[len(example.input_ids) for example in examples]], 1, False, self.device)
        inputs = lanes.inputs(examples, self.pad_id).model
        real = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for example, (lane, start) in zip(examples, lanes.starts, strict=True):
            real[lane, start : start + len(example.input_ids)] = True
        with torch.inference_mode(False), torch.no_grad():
            whole = self.model.base_model(**inputs)[0][real]
            try:
                with self.skipped(depth, self.states(depth, examples, lanes)):
                    skipped = self.model.base_model(**inputs)[0][real]
            except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
                if out_of_memory(error):  # which says nothing about the blocks
                    raise
                return False
        most = rounding(self.model, TOLERANCE, ROUGH_TOLERANCE)
        return bool((whole - skipped).abs().max() <= most * whole.abs().max())

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

        def note(number: int, block: Any, args: Any, output: Any) -> None:
            if isinstance(output, tuple):
                self._tuples[number] = len(output)

        hooks = [self.blocks[depth].register_forward_pre_hook(stop)]
        for number, block in enumerate(self.blocks[:depth]):
            hooks.append(block.register_forward_hook(functools.partial(note, number)))
        try:
            # not inference mode: the states will be inputs of training passes
            with torch.inference_mode(False), torch.no_grad():
                self.model.base_model(**batch.inputs)
        except _StopForward:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return {e: state[: len(e.input_ids)].clone() for e, state in zip(examples, captured[0], strict=True)}


def _pass_on(outputs: int | None, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Stand for a block that is skipped: return its input, in a tuple of so many if the block itself returns one."""
    return hidden_states if outputs is None else (hidden_states, *[None] * (outputs - 1))
