"""Many trials over one frozen base: one forward and backward over all their batches, everything else their own."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trainables.adapters import peft_adapter
from trainables.data.splits import Example, Splits
from trainables.engine.adapter_store import AdapterStore, Factors, Tenant
from trainables.engine.captured_passes import CapturedPasses
from trainables.engine.device_errors import out_of_memory
from trainables.engine.evaluation import row_losses
from trainables.engine.pass_inputs import Layout, PassInputs
from trainables.engine.prefix_cache import FrozenPrefix
from trainables.engine.recomputation import recomputed
from trainables.engine.sequence_packing import Entries, LaneInputs, Lanes
from trainables.engine.stacked_adapters import adapted
from trainables.models.base_model import BaseModel
from trainables.models.device import device_of
from trainables.spec import TrialSpec, Workload
from trainables.training.flat_adamw import rows_of, update
from trainables.training.inputs import base_of, splits_of
from trainables.training.losses import by_length
from trainables.training.trial_state import Learner


@dataclass(slots=True, eq=False)
class Slot:
    """A trial in a pack.

    Args:
        learner: The trial's own state.
        generator: Source of its dropout masks.
        tenant: Its tensors in the store.
        store: Where they are.
        micro: Micro-batches done of the current optimizer step.
        loss: Their summed loss.
        failure: Why it may not go on.
    """

    learner: Learner
    generator: torch.Generator
    tenant: Tenant
    store: AdapterStore
    micro: int = 0
    loss: float = 0.0
    failure: Exception | None = None

    def begin_again(self) -> None:
        """Discard the micro-batches done of the current optimizer step."""
        self.micro, self.loss = 0, 0.0
        self.learner.zero_grad()

    @property
    def prefix(self) -> int:
        """Blocks below the first adapter, counted."""
        factors = self.learner.adapter.factors
        return min(site.depth for site in self.learner.sites if site.name in factors)

    @property
    def examples(self) -> tuple[int, ...]:
        """Indices of the current optimizer step's training examples."""
        return self.learner.order[self.learner.step]


class Pack:
    """The frozen base with the adapters of several trials.

    During a pass the base's layers compute their own part and the adapters' in one; the base itself is never changed.
    A trial's rows lie together, and so do the trials' tensors: one operation over them is a step of all trials.

    Args:
        base: The frozen base.
        splits: The examples.
        micro_batch: Rows of a trial in one pass; every trial's batch size must be a multiple of it.
        recomputes: Whether blocks keep their inputs alone for the backward pass.
        captures: Whether passes without dropout are captured, where the device can.

    ``max_trials_per_pass`` is how many trials fit into one pass; ``resource_events`` lists what lowered it, and
    why passes are not captured any more.
    """

    def __init__(
        self, base: BaseModel, splits: Splits, micro_batch: int, recomputes: bool = False, captures: bool = True
    ) -> None:
        self.base, self.splits, self.device, self.micro_batch = base, splits, base.device, micro_batch
        self.recomputes = recomputes
        self.prefix = FrozenPrefix(base.model, base.coverage.blocks, base.pad_id, base.device)
        self.max_trials_per_pass = sys.maxsize
        self.resource_events: list[str] = []
        self._stores: list[AdapterStore] = []
        self._entries = Entries(base.device)
        longest = max(len(e.input_ids) for part in (splits.train, splits.validation, splits.test) for e in part)
        self._layout = Layout(base, longest)
        self._learned = [example.learned_tokens for example in splits.train]
        self.passes = CapturedPasses(device_of(base.device).graphs() if captures else None, self.resource_events)

    @classmethod
    def of(cls, workload: Workload, micro_batch: int) -> "Pack":
        """Return a pack on a workload's base and data.

        Raises:
            ValueError: The base on this node is not the one that was planned.
        """
        return cls(base_of(workload), splits_of(workload), micro_batch, workload.recomputes, workload.captures)

    def admit(self, workload: Workload, spec: TrialSpec) -> Slot:
        """Make a slot for a trial; the others do not change.

        Raises:
            AllocationMismatch: The adapter differs from the plan.
            ValueError: The batch size is no multiple of the pack's micro-batch.
        """
        if workload.batch_size % self.micro_batch:
            raise ValueError(f"batch size {workload.batch_size} is no multiple of the micro-batch {self.micro_batch}")
        adapter = peft_adapter.fresh_planned(self.base, workload, spec)
        learner = Learner(workload, spec, self.base, adapter, len(self.splits.train))
        tenant = Tenant(adapter, learner.begun_moments(), learner.rate_factors)
        store = next((store for store in self._stores if store.suits(tenant)), None)
        if store is None:
            store = AdapterStore(4, multiple=device_of(self.device).rank_multiple)
            self._stores.append(store)
        store.add(tenant)
        self._keep_passes()
        return Slot(learner, device_of(self.device).generator(), tenant, store)

    def forget(self, slot: Slot) -> None:
        """Release a slot's tensors."""
        slot.store.remove(slot.tenant)
        self._stores = [store for store in self._stores if store.tenants]
        self._keep_passes()

    def make_room(self) -> None:
        """Give back the memory of graphs to whatever else is to be computed; they are captured again afterwards."""
        self.passes.keep(())
        device_of(self.device).release_memory()

    def _keep_passes(self) -> None:
        self.passes.keep([store.memory for store in self._stores])

    def step(self, slots: Sequence[Slot]) -> None:
        """Do one micro-batch of each slot; those whose batch is full take their optimizer step.

        A slot whose loss or gradient is not finite, or for which memory does not suffice, gets a ``failure`` and
        stays unchanged otherwise; only if memory runs out within its optimizer step, a part of that may be done.
        """
        for group in self._groups(slots):
            self._together(group, self._step)

    def _together(self, slots: Sequence[Slot], work: Callable[[Sequence[Slot]], None]) -> None:
        """Run ``work`` for slots in one pass, or in as many as memory makes necessary, now and later."""
        remaining = list(slots)
        while remaining:
            part = remaining[: self.max_trials_per_pass]
            try:
                work(part)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                part = self._relieve(part, error)
            remaining = remaining[len(part) :]

    def _relieve(self, slots: list[Slot], error: RuntimeError) -> list[Slot]:
        """Make passes smaller after one for which memory did not suffice; return the slots that failed."""
        for slot in slots:
            slot.begin_again()
        without_graphs = self.passes.stop("memory did not suffice beside theirs")
        device_of(self.device).release_memory()
        if without_graphs:
            return []
        if len(slots) == 1:
            slots[0].failure = error.with_traceback(None)  # its frames would keep the memory
            return slots
        self.max_trials_per_pass = len(slots) // 2
        event = f"out of memory with {len(slots)} trials in a pass; at most {self.max_trials_per_pass} since"
        self.resource_events.append(event)
        return []

    def _step(self, slots: Sequence[Slot]) -> None:
        started = time.perf_counter()
        for slot in slots:
            if slot.micro == 0:
                slot.generator.set_state(slot.learner.rng)
        tokens = [sum(self._learned[index] for index in slot.examples) for slot in slots]
        result = self._trained(slots, self._layout.of([self._micro_batch(slot) for slot in slots]), tokens)
        self._layout.make_ready([rows for slot in slots if (rows := self._micro_batch(slot, ahead=1))])
        for slot, loss, norm, count in zip(slots, *result.tolist(), tokens, strict=True):
            slot.micro, slot.loss = slot.micro + 1, slot.loss + loss
            if slot.micro * self.micro_batch == len(slot.examples):
                self._advance(slot, norm, count)
        share = (time.perf_counter() - started) / len(slots)
        for slot in slots:
            slot.learner.spent(share)

    @torch.inference_mode()
    def evaluate(self, slots: Sequence[Slot], split: str) -> list[list[float] | None]:
        """Return each slot's summed loss of each example of a split; None if memory does not suffice for it."""
        losses: dict[Slot, list[float]] = {}
        for group in self._groups(slots):
            self._together(group, lambda part: losses.update(zip(part, self._evaluate(part, split), strict=True)))
        return [losses.get(slot) for slot in slots]

    def _evaluate(self, slots: Sequence[Slot], split: str) -> list[list[float]]:
        started = time.perf_counter()
        examples: Sequence[Example] = getattr(self.splits, split)
        order = by_length(examples)
        parts = [order[start : start + self.micro_batch] for start in range(0, len(order), self.micro_batch)]
        factors = self._factors(slots)
        losses = []
        for part in parts:
            rows = self._layout.of([[examples[index] for index in part]] * len(slots))
            losses.append(self._evaluated(slots, rows, factors).view(len(slots), -1))
        columns = sorted(range(len(order)), key=order.__getitem__)
        in_order: list[list[float]] = torch.cat(losses, 1)[:, columns].tolist()
        for slot in slots:
            slot.learner.seconds += (time.perf_counter() - started) / len(slots)
        return in_order

    @staticmethod
    def _groups(slots: Sequence[Slot]) -> list[list[Slot]]:
        """Group slots by store and by the number of blocks below their first adapter, which a group skips together."""
        groups: dict[tuple[int, int], list[Slot]] = {}
        for slot in slots:
            groups.setdefault((id(slot.store), slot.prefix), []).append(slot)
        return list(groups.values())

    def _micro_batch(self, slot: Slot, ahead: int = 0) -> list[Example]:
        """Return the examples of a slot's next micro-batch, or of one some micro-batches ahead; none after its last."""
        learner, (steps, micro) = slot.learner, divmod(slot.micro + ahead, len(slot.examples) // self.micro_batch)
        if learner.step + steps >= len(learner.order):
            return []
        start = micro * self.micro_batch
        indices = learner.order[learner.step + steps][start : start + self.micro_batch]
        return [self.splits.train[index] for index in indices]

    def _trained(self, slots: Sequence[Slot], inputs: PassInputs, tokens: Sequence[int]) -> torch.Tensor:
        """Add the gradients of a micro-batch of each slot, and do the steps of those whose batch is full.

        A slot that trains something else than its adapter does its step itself.

        Args:
            slots: Of the pass.
            inputs: Their micro-batches.
            tokens: Each slot's learned tokens of a step.

        Returns:
            Each slot's loss and gradient norm, (2, slots).
        """
        steps = [
            slot.learner.next_step
            if slot.learner.trains_adapter and (slot.micro + 1) * self.micro_batch == len(slot.examples)
            else None
            for slot in slots
        ]
        store, rows, updates, dtype = slots[0].store, self._rows(slots), any(steps), self.base.computes_in
        drawing = slots if any(slot.learner.workload.dropout for slot in slots) else ()
        compute = self._ready(slots, inputs, drawing)
        counts = self._entries.enter(torch.tensor(tokens))
        entries = self._entries.enter(rows_of(steps, [slot.loss for slot in slots]))

        def work() -> torch.Tensor:
            losses = compute(factors=store.factors(rows, dtype), tokens=counts).sum(1)
            norms = torch.zeros_like(losses)
            if updates:
                norms = update(store.flat[:, rows], store.scales[rows], entries, losses, store.rate_factors(rows))
            return torch.stack([losses.detach(), norms])

        if drawing:
            return work()
        return self.passes.do(self._kind(slots, inputs, updates, "step"), work)

    def _evaluated(self, slots: Sequence[Slot], inputs: PassInputs, factors: dict[str, Factors]) -> torch.Tensor:
        """Return the summed loss of each row of each slot, in nats, shape (slots, rows)."""
        work = functools.partial(self._ready(slots, inputs), factors)
        return self.passes.do(self._kind(slots, inputs, False, "evaluation"), work)

    def _ready(
        self, slots: Sequence[Slot], inputs: PassInputs, drawing: Sequence[Slot] = ()
    ) -> Callable[..., torch.Tensor]:
        """Put a pass's inputs onto the device, and return ``_losses`` of them; ``drawing`` as there."""
        given, depth = inputs.numbers.entered(self.base.joining == "mask", self._entries), self._depth(slots)
        states = self.prefix.states(depth, inputs.examples, inputs.lanes)
        if states is not None and self.passes.captures:
            states = self._entries.enter(states)
        # not the slots themselves: a pass that is done again would keep those of the first time
        return functools.partial(self._losses, len(slots), inputs.lanes, given, depth, states, drawing)

    def _kind(self, slots: Sequence[Slot], inputs: PassInputs, updates: bool, what: str) -> tuple[object, ...]:
        """Return all that what a pass asks of the device depends on."""
        store, rows, lanes = slots[0].store, self._rows(slots), inputs.lanes
        laid = lanes.per_trial, lanes.length, len(inputs.examples), tuple(inputs.numbers.sizes)
        over = store.memory, rows.start, rows.stop, tuple(store.ranks(rows).items())
        rates = updates and store.rate_factors(rows) is not None
        return *over, laid, self._depth(slots), updates, rates, what

    def _depth(self, slots: Sequence[Slot]) -> int:
        """Return how many blocks a pass skips."""
        depth = slots[0].prefix
        return depth if self.base.coverage.skips and self.prefix.is_sound(depth, self.splits.train[:2]) else 0

    def _advance(self, slot: Slot, norm: float, tokens: int) -> None:
        slot.learner.rng = slot.generator.get_state()
        try:
            if slot.learner.trains_adapter:
                slot.learner.check(slot.loss, norm)
                slot.learner.count(slot.loss, tokens)
            else:
                slot.store.scale_gradients(slot.store.rows([slot.tenant]))
                slot.learner.advance(slot.loss, tokens)
        except Exception as error:
            # fails alone: the pass has already released its memory, so smaller passes would not help
            slot.failure = error.with_traceback(None) if out_of_memory(error) else error
        slot.micro, slot.loss = 0, 0.0

    def _losses(
        self,
        trials: int,
        lanes: Lanes,
        given: LaneInputs,
        depth: int,
        states: torch.Tensor | None,
        drawing: Sequence[Slot],
        factors: dict[str, Factors],
        tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the summed loss of each row of each slot, in nats, shape (slots, rows).

        Args:
            trials: Of the pass.
            lanes: Where the rows lie.
            given: The rows.
            depth: Blocks that are skipped.
            states: What these make of the rows; None if there are none.
            drawing: The slots, if one of them has dropout.
            factors: Of the slots.
            tokens: In training, each slot's learned tokens of a step; adds to the gradients of its mean loss.
        """
        mask = functools.partial(_dropout, drawing, lanes) if drawing else None
        twice = self.prefix.blocks[depth:] if self.recomputes and tokens is not None else []
        with recomputed(twice, [slot.generator for slot in drawing]), adapted(self.base.model, factors, mask):
            with self.base.autocast(), self.prefix.skipped(depth, states):
                losses = row_losses(self.base, given, lanes.joined, len(lanes.starts)).view(trials, -1)
            if tokens is not None:
                # a sum of per-trial means: each trial's gradient is what it would be alone
                (losses.sum(1) / tokens).sum().backward()  # type: ignore[no-untyped-call]
            return losses

    def _rows(self, slots: Sequence[Slot]) -> slice:
        return slots[0].store.rows([slot.tenant for slot in slots])

    def _factors(self, slots: Sequence[Slot]) -> dict[str, Factors]:
        return slots[0].store.factors(self._rows(slots), self.base.computes_in)


def _dropout(slots: Sequence[Slot], lanes: Lanes, name: str, x: torch.Tensor) -> torch.Tensor:
    """Return dropout's factors for x (slots, lanes * length, d_in).

    On a CPU they are those that PyTorch draws for a slot alone; its dropout on a GPU draws others, as likely.
    """
    masks = torch.ones_like(x)
    for mask, slot, lengths, sources in zip(masks, slots, lanes.lengths, lanes.sources, strict=True):
        if name in slot.learner.adapter.factors:
            keep = 1 - slot.learner.workload.dropout
            padded = x.new_empty(len(lengths) * max(lengths), x.shape[-1])  # alone, rows are padded to its longest
            torch.index_select(padded.bernoulli_(keep, generator=slot.generator).div_(keep), 0, sources, out=mask)
    return masks
