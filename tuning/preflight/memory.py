"""What the trials of a search take in memory, and how they are trained so that it suffices."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainables.models.device import CPU, CUDA, MPS, device_of, here
from trainables.models.precision import BFLOAT16, NF4, Precision
from trainables.spec import Workload
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight, token_bytes

if TYPE_CHECKING:  # a search whose memory is no question needs no torch for it
    from trainables.engine.footprint import Fit, Footprint

log = logging.getLogger(__name__)
SHARE = 0.85
PROCESS_BYTES = 500_000_000
"""Of a process before it has loaded a base; of a GPU's context, about the same."""
FAR_LESS, SEVERAL_TIMES, FLOAT32_BYTES = 0.1, 4, 4
CARDS_GB = (16, 24, 48, 80)


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of a search's memory before a weight is loaded.

    Args:
        footprint: Of its trials; None where the model cannot be computed without weights.
        fit: How they are trained; None where nothing fits, or nothing is known.
        available: Memory for a process that trains, in bytes; None where that is not known.
        why_not: Why there is no footprint.
    """

    footprint: "Footprint | None"
    fit: "Fit | None"
    available: float | None
    why_not: str = ""

    @property
    def sentence(self) -> str:
        """What is said of it before the first trial."""
        if self.footprint is None or self.fit is None:
            return self.why_not
        parts, chosen = self.footprint, self.fit
        twice = ", blocks computed twice (gradient checkpointing)" if chosen.recomputes else ""
        trials = f"{chosen.trials} trial{'s' if chosen.trials > 1 else ''} in a pack"
        return (
            f"memory: about {_megabytes(chosen.bytes)} a process with {trials}, {chosen.rows} rows of each in a pass"
            f"{twice}: base {_megabytes(parts.base)}, adapters {_megabytes(chosen.trials * parts.trial)}, moments "
            f"{_megabytes(chosen.trials * parts.moments)}, activations "
            f"{_megabytes(parts.of_pass(chosen.trials * chosen.rows, chosen.recomputes))}; one trial "
            f"{_megabytes(parts.total(1, chosen.rows, chosen.recomputes))}"
        )

    @property
    def content(self) -> Mapping[str, Any] | None:
        """The same for programs; None where it is not known."""
        if self.footprint is None or self.fit is None:
            return None
        chosen = self.fit
        return {
            "base": self.footprint.base,
            "adapter": self.footprint.trial,
            "moments": self.footprint.moments,
            "activations": self.footprint.of_pass(chosen.trials * chosen.rows, chosen.recomputes),
            "pack_size": chosen.trials,
            "micro_batch": chosen.rows,
            "gradient_checkpointing": chosen.recomputes,
        }


def planned(plan: SearchPlan, checked: Preflight, there: float | None, observer: SearchObserver) -> Preflight:
    """Return the same with passes that fit, and say what they take.

    Nothing is planned, or said, where there is far more memory than could be taken: planning takes seconds.

    Args:
        plan: The search, its devices and dtype decided.
        checked: What is known of it.
        there: Memory of the device, in bytes; None where that is not known.
        observer: Hears it.

    Raises:
        ValueError: Nothing fits on a GPU; it says what would. On a CPU that is said, and tried.
    """
    if plan.device == CUDA and plan.cuda_graphs == "auto" and plan.dropout:
        log.info("training steps are no CUDA graphs: --dropout %g", plan.dropout)
    if there is not None and plan.gradient_checkpointing != "on" and _most_bytes(plan, checked) < FAR_LESS * there:
        return checked
    memory = memory_of(plan, checked, there)
    if memory.sentence:
        observer.noted(memory.sentence)
        log.info("%s", memory.sentence)
    if memory.footprint is not None and memory.fit is None and memory.available is not None:
        lack = _too_little(plan, checked.workload, memory.footprint, memory.available)
        if plan.device == CUDA:
            raise ValueError(lack)
        observer.noted(lack)
    return replace(checked, workload=with_passes(plan, checked.workload, memory))


def _most_bytes(plan: SearchPlan, checked: Preflight) -> int:
    """Return more than trials could take: the base in float32, and each token's activations several times over."""
    tokens = checked.workload.pack_size * plan.batch_size * checked.workload.data.max_length
    return FLOAT32_BYTES * checked.shape.params + SEVERAL_TIMES * tokens * token_bytes(checked.shape)


def memory_of(plan: SearchPlan, checked: Preflight, there: float | None) -> Memory:
    """Return what is known of a search's memory; arguments as of ``planned``."""
    from trainables.engine.footprint import fit

    workload, available = checked.workload, None if there is None else SHARE * there - PROCESS_BYTES
    try:
        footprint = _footprint(workload, checked)
    except ValueError as error:
        return Memory(None, None, available, str(error))
    wanted = {"auto": None, "on": True, "off": False}[plan.gradient_checkpointing]
    limit = float("inf") if available is None else available
    chosen = fit(footprint, limit, plan.batch_size, workload.pack_size, workload.micro_batch, wanted)
    return Memory(footprint, chosen, available)


def with_passes(plan: SearchPlan, workload: Workload, memory: Memory) -> Workload:
    """Return a workload with the passes that were planned."""
    if memory.fit is None:
        short = memory.footprint is not None and plan.gradient_checkpointing != "off"
        rows = 1 if memory.footprint is not None else None
        return replace(workload, recomputes=short or plan.gradient_checkpointing == "on", rows_per_pass=rows)
    rows = None if memory.fit.rows == workload.micro_batch else memory.fit.rows
    return replace(workload, recomputes=memory.fit.recomputes, rows_per_pass=rows)


def _footprint(workload: Workload, checked: Preflight, precision: Precision | None = None) -> "Footprint":
    from trainables.engine.footprint import footprint_of

    params = _row_params(workload, checked)
    length = min(workload.data.max_length, max(map(len, _rows(workload)), default=workload.data.max_length))
    precision = precision or workload.precision
    return footprint_of(workload.model, checked.shape, precision, workload.device, params, length)


def _row_params(workload: Workload, checked: Preflight) -> int:
    """Return the numbers in a trial's row of a pack, as far as the first allocations tell."""
    from trainables.engine.footprint import row_params

    sites, trials = checked.shape.sites, [each.ranks for each in checked.allocations.values() if each is not None]
    packs = [trials] if workload.pack_size > 1 else [[trial] for trial in trials]
    return max(workload.budget.params, *(row_params(sites, pack, workload.device) for pack in packs if pack), 0)


def _rows(workload: Workload) -> list[tuple[int, ...]]:
    return [] if workload.splits is None else [example.input_ids for example in workload.splits.train]


def _too_little(plan: SearchPlan, workload: Workload, footprint: "Footprint", available: float) -> str:
    """Return what to do about a memory into which one row of each trial does not fit."""
    from trainables.models.base_model import is_saved_quantized

    ways = []
    if workload.pack_size > 1:
        ways.append("--pack-size 1")
    if not workload.precision.quantize and not is_saved_quantized(workload.model):
        ways.append("--quantize nf4")
    if plan.gradient_checkpointing == "off":
        ways.append("--gradient-checkpointing auto")
    needed = footprint.total(workload.pack_size, 1, plan.gradient_checkpointing != "off")
    ways.append("a lower --max-length")
    return (
        f"--model {plan.model}: about {_megabytes(needed)} are needed, and {_megabytes(available)} are there; try "
        f"{', or '.join(ways)}"
    )


def cards(plan: SearchPlan, checked: Preflight) -> list[str]:
    """Return a line for each size of card: whether a model fits there, and how. The bundled one fits on all."""
    if plan.model == "bundled":
        return []
    workload = replace(checked.workload, device=CUDA, pack_size=1, rows_per_pass=None)
    try:
        whole, bits = (_footprint(workload, checked, Precision(BFLOAT16, quantize)) for quantize in (None, NF4))
    except ValueError:
        return []
    return [f"on {size} GB: {on_card(plan.batch_size, size, whole, bits)}" for size in CARDS_GB]


def on_card(batch_size: int, size: int, whole: "Footprint", bits: "Footprint") -> str:
    """Return how a model is trained on a card of so many GB, of its footprints in bfloat16 and in four bits."""
    from trainables.engine.footprint import fit

    available = SHARE * size * 1e9 - PROCESS_BYTES
    for footprint, name in ((whole, BFLOAT16), (bits, NF4)):
        for twice in (False, True):
            if chosen := fit(footprint, available, batch_size, 1, batch_size, twice):
                more = footprint.total(1, chosen.rows, twice)
                per_trial = footprint.total(2, chosen.rows, twice) - more
                trials = min(16, 1 + int((available - more) // per_trial))
                how = f"{name}, {chosen.rows} row{'s' if chosen.rows > 1 else ''} in a pass" + (
                    ", gradient checkpointing" if twice else ""
                )
                return f"{how}, {trials} trial{'s' if trials > 1 else ''} at once"
    return "no"


def on_this_machine(plan: SearchPlan, checked: Preflight) -> tuple[SearchPlan, Preflight]:
    """Return a plan and what is known of it as if this machine trained it, for a dry run."""
    if plan.gpus_per_trial == "auto":
        device = here().name
        plan = plan.model_copy(update={"gpus_per_trial": {CUDA: 1.0, MPS: MPS}.get(device, 0.0)})
    if plan.base_dtype == "auto" and plan.device == CUDA and plan.model != "bundled":
        plan = plan.model_copy(update={"base_dtype": BFLOAT16})
    return plan, replace(checked, workload=plan.trained_with(checked.workload))


def bytes_here(plan: SearchPlan) -> float | None:
    """Return the memory of this machine for each process that trains; None of a GPU that is not here."""
    if plan.device == CUDA:
        device = here()
        return device.total_bytes() if device.name == CUDA else None
    hosts = 1 if plan.device == MPS else max(1, int((os.cpu_count() or 1) // plan.cpus_per_trial))
    at_once = max(1, -(-plan.trials // plan.trials_per_pack))
    return device_of(CPU).available_bytes() / min(hosts, at_once)


def _megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f} MB"
