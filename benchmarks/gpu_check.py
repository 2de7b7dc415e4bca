"""Packs over bases in bfloat16 and in four bits on a GPU, against plain PEFT: ``python -m benchmarks.gpu_check``.

Losses of the first steps, memory against what was predicted, and which matrices are sound. ``--small`` is for a CPU.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from benchmarks.gpu import Case, cases, packed, said_if_it_fails, workload_of
from trainables.adapters import peft_adapter
from trainables.data.collate import collate
from trainables.engine.footprint import footprint_of, row_params
from trainables.engine.pack import Slot
from trainables.engine.soundness import sound_coverage_of
from trainables.models.base_model import BaseModel, load, shape_of
from trainables.models.device import CPU, CUDA, device_of, here
from trainables.models.precision import BFLOAT16, FLOAT32, NF4, Precision
from trainables.spec import Workload
from trainables.training.losses import learning_rate_factor

STEPS, TRIALS = 6, 2
CHECKED = "SmolLM2-135M", "Llama-1B", "llama"


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a pack and plain PEFT are apart.

    Args:
        largest: Of the mean losses per token of each step, in nats.
        bound: What it may be.
    """

    largest: float
    bound: float

    def __str__(self) -> str:
        return f"{self.largest:.2g} nats (at most {self.bound:g}{'' if self.largest <= self.bound else ': MISSED'})"


def packed_losses(workload: Workload) -> tuple[list[list[float]], list[Slot]]:
    """Return each trial's mean loss per token of each step, trained together, and the trials."""
    pack, slots = packed(workload, TRIALS)
    losses: list[list[float]] = [[] for _ in slots]
    for _ in range(STEPS):
        before = [(slot.learner.recent.loss, slot.learner.recent.tokens) for slot in slots]
        pack.step(slots)
        for row, slot, (loss, tokens) in zip(losses, slots, before, strict=True):
            recent = slot.learner.recent
            row.append((recent.loss - loss) / (recent.tokens - tokens))
    return losses, slots


def plain_losses(base: BaseModel, workload: Workload, slot: Slot) -> list[float]:
    """Return the same of a trial alone, with nothing but PEFT and ``torch.optim.AdamW``."""
    from trainables.training.inputs import splits_of

    model = peft_adapter.attach_planned(base, workload, slot.learner.spec)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses, train = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0), [], splits_of(workload).train
    try:
        for step in range(STEPS):
            batch = collate([train[index] for index in slot.learner.order[step]], base.pad_id, base.device)
            with base.autocast():
                loss = model(**batch.inputs, labels=batch.labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, workload.clip_norm)
            factor = learning_rate_factor(step, workload.steps, workload.warmup)
            optimizer.param_groups[0]["lr"] = slot.learner.spec.learning_rate * factor
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    finally:
        peft_adapter.detach(model)
    return losses


def check(case: Case, model: str, device: str, precision: Precision) -> None:
    """Print what is found of a model in a precision."""
    workload = replace(workload_of(case, model, device), precision=precision, epochs=20)
    shape, place = shape_of(model), device_of(device)
    coverage = sound_coverage_of(workload)
    load.cache_clear()  # memory is of what is loaded from here on
    place.release_memory()
    place.forget_peak()
    base = load(model, device, precision)
    together, slots = packed_losses(workload)
    peak = place.peak_bytes()
    params = row_params(shape.sites, [slot.learner.adapter.ranks for slot in slots], device)
    footprint = footprint_of(model, shape, precision, device, params, case.length)
    predicted = footprint.total(TRIALS, workload.micro_batch, False)
    alone = [plain_losses(base, workload, slot) for slot in slots]
    pairs = [
        abs(a - b) for ours, theirs in zip(together, alone, strict=True) for a, b in zip(ours, theirs, strict=True)
    ]
    apart = Difference(max(pairs), precision.tolerance)
    print(
        f"{case.name}, {precision}: {len(coverage.sites)} of {len(shape.sites)} matrices sound; pack and plain PEFT "
        f"apart by {apart}; memory {peak / 1e9:.2f} GB, predicted {predicted / 1e9:.2f}",
        flush=True,
    )


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="Tiny models, to see that it runs.")
@click.option("--smollm2", type=click.Path(exists=True, path_type=Path), help="Folder of SmolLM2-135M.")
@click.option("--cpu", is_flag=True, help="Leave a GPU alone.")
def main(small: bool, smollm2: Path | None, cpu: bool) -> None:
    """Check and print."""
    device = CPU if cpu else here().name
    dtype = BFLOAT16 if device == CUDA else FLOAT32
    for case in (case for case in cases(small, smollm2) if case.name in CHECKED):
        model = case.make()
        for quantize in (None, NF4):
            with said_if_it_fails(f"{case.name}, {quantize or dtype}"):
                check(case, model, device, Precision(dtype, quantize))


if __name__ == "__main__":
    main()
