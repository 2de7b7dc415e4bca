"""Many trials over one frozen base: one forward and backward over all their batches, everything else their own."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from trainables import adapters
from trainables.base_model import BaseModel, load
from trainables.data import DataSource, Example, Splits, collate, load_splits
from trainables.finetune import Diverged, autocast, token_losses
from trainables.learner import Learner
from trainables.prefix import FrozenPrefix
from trainables.spec import TrialSpec, Workload


@dataclass(slots=True, eq=False)
class Slot:
    """A trial in a pack.

    Args:
        learner: What is the trial's own.
        generator: Source of its dropout masks.
        micro: Micro-batches done of the current optimizer step.
        loss: Summed loss of those.
        length: Longest row of the current micro-batch.
        failure: Why it may not go on.
        trained_loss: Summed loss of finished batches since the last report.
        trained_seconds: Its share of the time spent on them.
    """

    learner: Learner
    generator: torch.Generator
    micro: int = 0
    loss: float = 0.0
    length: int = 0
    failure: Diverged | None = None
    trained_loss: float = 0.0
    trained_seconds: float = 0.0

    @property
    def prefix(self) -> int:
        """Blocks below the first adapter, counted."""
        factors = self.learner.adapter.factors
        depths = sorted({site.depth for site in self.learner.sites})
        return depths.index(min(site.depth for site in self.learner.sites if site.name in factors))

    @property
    def examples(self) -> tuple[int, ...]:
        """Indices of the current optimizer step's training examples."""
        return self.learner.order[self.learner.step]


class Pack:
    """The frozen base with the adapters of several trials.

    Adapters act through hooks on the base's own layers, so the base is never changed. A trial's rows lie together; the
    trials' factors are zero-padded to the largest rank at a site and multiplied in one batched product. Pads do not
    train: they are made anew in every forward pass, and a trial's own tensors have its own ranks.

    Args:
        model: As ``Workload.model``.
        data: What the trials read.
        device: ``cpu`` or ``cuda``.
        micro_batch: Rows of a trial in one pass; every trial's batch size must be a multiple of it.
    """

    def __init__(self, model: str, data: DataSource, device: str, micro_batch: int) -> None:
        self.base: BaseModel = load(model, device)
        self.splits: Splits = load_splits(data, model)
        self.device, self.micro_batch = device, micro_batch
        self.prefix = FrozenPrefix(self.base.model, self.base.sites, self.base.pad_id, device)
        self._active: Sequence[Slot] = ()
        self._training = False
        modules = dict(self.base.model.named_modules())
        self._hooks = [
            modules[site.name].register_forward_hook(functools.partial(self._add_adapters, site.name))
            for site in self.base.sites
        ]

    def admit(self, workload: Workload, spec: TrialSpec) -> Slot:
        """Make a slot for a trial; nothing of its neighbours changes.

        PEFT builds and audits the adapter on the base; its tensors are taken over, and PEFT's layers taken off again.

        Raises:
            AllocationMismatch: What PEFT built is not what was planned.
            ValueError: The batch size is no multiple of the pack's micro-batch.
        """
        if workload.batch_size % self.micro_batch:
            raise ValueError(f"batch size {workload.batch_size} is no multiple of the micro-batch {self.micro_batch}")
        model = adapters.attach_planned(self.base, workload, spec)
        adapter = adapters.read(model).copied()
        adapters.detach(model)
        learner = Learner(workload, spec, self.base, adapter, len(self.splits.train))
        return Slot(learner, torch.Generator(self.device))

    def close(self) -> None:
        """Take the hooks off the base."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def step(self, slots: Sequence[Slot]) -> None:
        """Do one micro-batch of each slot; those whose batch is full take their optimizer step.

        A slot whose loss or gradient is not finite gets a ``failure`` and is otherwise left as it was.
        """
        for group in self._by_prefix(slots):
            self._step(group)

    def _step(self, slots: Sequence[Slot]) -> None:
        started = time.perf_counter()
        for slot in slots:
            slot.generator.set_state(slot.learner.rng)
        rows = [self._micro_batch(slot) for slot in slots]
        for slot, group in zip(slots, rows, strict=True):
            slot.length = max(len(example.input_ids) for example in group)
        tokens = [sum(self.splits.train[index].learned_tokens for index in slot.examples) for slot in slots]
        self._training = True
        losses = self._losses(slots, rows)
        # a sum of per-trial means: each trial's gradient is what it would be alone
        (losses / torch.tensor(tokens, device=self.device)).sum().backward()  # type: ignore[no-untyped-call]
        for slot, loss, count in zip(slots, losses.tolist(), tokens, strict=True):
            slot.learner.rng = slot.generator.get_state()
            slot.micro, slot.loss = slot.micro + 1, slot.loss + loss
            if slot.micro * self.micro_batch == len(slot.examples):
                self._advance(slot, count)
        share = (time.perf_counter() - started) / len(slots)
        for slot in slots:
            slot.trained_seconds += share
            slot.learner.seconds += share

    @torch.inference_mode()
    def evaluate(self, slots: Sequence[Slot], split: str) -> list[float]:
        """Return each slot's mean loss per learned token on a split."""
        losses: dict[Slot, float] = {}
        for group in self._by_prefix(slots):
            losses |= dict(zip(group, self._evaluate(group, split), strict=True))
        return [losses[slot] for slot in slots]

    def _evaluate(self, slots: Sequence[Slot], split: str) -> list[float]:
        started = time.perf_counter()
        examples = sorted(getattr(self.splits, split), key=lambda example: len(example.input_ids))
        self._training = False
        total = torch.zeros(len(slots), dtype=torch.float64, device=self.device)
        for start in range(0, len(examples), self.micro_batch):
            total += self._losses(slots, [examples[start : start + self.micro_batch]] * len(slots))
        for slot in slots:
            slot.learner.seconds += (time.perf_counter() - started) / len(slots)
        tokens = sum(example.learned_tokens for example in examples)
        return [loss / tokens for loss in total.tolist()]

    @staticmethod
    def _by_prefix(slots: Sequence[Slot]) -> list[list[Slot]]:
        """Part slots by the number of blocks below their first adapter; those skip the same blocks together."""
        groups: dict[int, list[Slot]] = {}
        for slot in slots:
            groups.setdefault(slot.prefix, []).append(slot)
        return list(groups.values())

    def _micro_batch(self, slot: Slot) -> list[Example]:
        start = slot.micro * self.micro_batch
        return [self.splits.train[index] for index in slot.examples[start : start + self.micro_batch]]

    def _advance(self, slot: Slot, tokens: int) -> None:
        try:
            slot.learner.advance(slot.loss, tokens)
            slot.trained_loss += slot.loss
        except Diverged as error:
            slot.failure = error
        slot.micro, slot.loss = 0, 0.0

    def _losses(self, slots: Sequence[Slot], rows: Sequence[Sequence[Example]]) -> torch.Tensor:
        """Return the summed loss of each slot over its rows, in nats, shape (slots,)."""
        examples = [example for group in rows for example in group]
        batch = collate(examples, self.base.pad_id, self.device)
        with autocast(self.device), self.prefix.skipped(slots[0].prefix, examples, batch.input_ids.shape[1]):
            self._active = slots
            try:
                losses, row = token_losses(self.base.model, batch, self.base.separable_head)
            finally:
                self._active = ()
        return losses.new_zeros(len(slots)).index_add(0, row // len(rows[0]), losses)

    def _add_adapters(self, name: str, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        """Add the adapters' part to a layer's output.

        Args:
            name: The site.
            module: The layer.
            inputs: One tensor (slots * rows, length, d_in).
            output: (slots * rows, length, d_out).
        """
        members = [k for k, slot in enumerate(self._active) if name in slot.learner.adapter.factors]
        if not members:
            return output
        count = len(self._active)
        x = inputs[0].view(count, -1, inputs[0].shape[-1])
        if len(members) < count:
            x = x[members]
        slots = [self._active[k] for k in members]
        factors = [slot.learner.adapter.factors[name] for slot in slots]
        down = pad_sequence([a for a, _ in factors], batch_first=True)  # (members, rank, d_in)
        up = pad_sequence([b.t() for _, b in factors], batch_first=True)  # (members, rank, d_out)
        scale = torch.tensor([[[slot.learner.adapter.scales[name]]] for slot in slots], device=x.device)
        delta = torch.bmm(torch.bmm(self._dropped(x, slots), down.transpose(1, 2)) * scale, up)
        if len(members) == count:
            return output + delta.view_as(output)
        index = torch.tensor(members, device=x.device)
        return output.view(count, -1, output.shape[-1]).index_add(0, index, delta.to(output.dtype)).view_as(output)

    def _dropped(self, x: torch.Tensor, slots: Sequence[Slot]) -> torch.Tensor:
        """Apply each slot's own dropout to (slots, rows * length, d_in), drawn as PyTorch draws it for it alone."""
        rates = [slot.learner.workload.dropout for slot in slots]
        if not (self._training and any(rates)):
            return x
        length = x.shape[1] // self.micro_batch
        masks = []
        for slot, rate in zip(slots, rates, strict=True):
            # alone, the rows would be padded to their own longest and not to the pack's
            mask = x.new_empty(self.micro_batch, slot.length, x.shape[-1])
            mask.bernoulli_(1 - rate, generator=slot.generator).div_(1 - rate)
            masks.append(functional.pad(mask, (0, 0, 0, length - slot.length)).flatten(0, 1))
        return x * torch.stack(masks)
