"""What a plan would do, and what it would take."""

import json
import time
from collections.abc import Iterator
from typing import Any

from strategies import STRATEGIES
from trainables.data import lengths
from trainables.models.device import here
from tuning.observer import SearchSize
from tuning.plan import time_limit
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import SMALLEST_SHARE
from tuning.preflight import disk_space, memory
from tuning.preflight.always_plain import always_plain, in_words
from tuning.preflight.preflight import FLOAT_BYTES, Preflight, token_bytes

PRODUCT_OF_CPU, PRODUCT_OF_GPU = 512, 4096
"""Rows and columns of matrices whose products are timed: smaller ones leave a GPU idle."""
SHOWN, SHOWN_LINES = 600, 12
"""Characters and lines of the example that fit beside the rest on a screen."""


def as_json(plan: SearchPlan, checked: Preflight) -> str:
    """Return what is read, each strategy's first allocation and the cost as JSON."""
    return json.dumps(_content(plan, checked), ensure_ascii=False)


def lines(plan: SearchPlan, checked: Preflight) -> Iterator[str]:
    """Yield what is chosen and read, each strategy's first allocation and the cost."""
    plan = plan.model_copy(update=checked.pinned)
    yield f"plan: {json.dumps(plan.model_dump(mode='json', exclude_defaults=True), ensure_ascii=False)}"
    yield from data_lines(checked)
    yield f"first example, what is learned in {''.join(lengths.LEARNED)}:\n{_example(checked)}"
    yield f"budget: {checked.workload.budget.params:,} of {checked.shape.params:,} base parameters"
    yield str(checked.shape.coverage)
    if checked.has_weights and not checked.looked_at:
        yield "not looked at: the base does not fit into this machine's free memory; a search may leave some of it out"
    if not checked.has_weights:
        yield "there are no weights: all of this is of the model's configuration, and a search would be refused"
    if plan.searches_budget:
        smallest = checked.workload.budget.share(SMALLEST_SHARE)
        yield f"searched: each trial's budget, from {smallest.params:,}"
    for name, allocation in checked.allocations.items():
        if allocation is None:
            yield f"{name}: decided {STRATEGIES[name].decided()}"
            continue
        ranks = list(allocation.ranks.values())
        yield f"{name}: {allocation.params:,} parameters, ranks {min(ranks)} to {max(ranks)}: {_compact(ranks)}"
    if plain := always_plain(plan.strategies, checked.workload):
        yield in_words(plain)
    yield from _cost(plan, checked)


def data_lines(checked: Preflight) -> Iterator[str]:
    """Yield what of the data is used, and what becomes of the rest."""
    yield from checked.data["words"]
    if not checked.has_verdict:
        yield (
            f"no verdict: {checked.data['documents']['test']} test documents, and it takes at least "
            f"{lengths.FEWEST_TEST_DOCUMENTS}; nothing is confirmed"
        )


def size(plan: SearchPlan, checked: Preflight) -> SearchSize:
    """Return how large a search is."""
    confirmations = plan.most_confirmations if checked.has_verdict else 0
    return SearchSize(
        data=tuple(data_lines(checked)),
        base_params=checked.shape.params,
        budget_params=checked.workload.budget.params,
        trials=plan.trials,
        confirmations=confirmations,
        seconds=_seconds(plan, checked),
    )


def _cost(plan: SearchPlan, checked: Preflight) -> Iterator[str]:
    again = plan.most_confirmations
    tokens = checked.token_estimate(plan.trials + again + plan.short_runs)
    if plan.short_runs:
        yield "learning rate: short trials of plain LoRA find what is searched around"
    trials = f"{plan.trials} trials and {again} confirmation runs"
    yield f"cost: at most {trials} x {checked.workload.steps} steps, {tokens:,} tokens in all"
    yield f"time: about {_seconds(plan, checked) / 60:,.0f} minutes at this machine's speed"
    if plan.time_limit is not None:
        yield time_limit.sentence(plan)
    needs = _memory(plan, checked)
    yield needs.sentence or f"memory: about {_memory_bytes(plan, checked) / 1e6:,.0f} MB at least, which is not there"
    yield from memory.cards(plan, checked)
    yield f"disk: about {disk_space.needed_bytes(plan, checked) / 1e6:,.0f} MB in {plan.runs_dir}"


def _example(checked: Preflight) -> str:
    from trainables.models.base_model import load_tokenizer

    return shortened(lengths.marked(_first(checked), load_tokenizer(checked.workload.model)))


def shortened(text: str) -> str:
    """Return of a text what fits on a screen: beginning and end, in lines and in characters."""
    rows = text.split("\n")
    if len(rows) > SHOWN_LINES:
        text = "\n".join([*rows[: SHOWN_LINES // 2], "…", *rows[-SHOWN_LINES // 2 :]])
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"


def _first(checked: Preflight) -> Any:
    splits = checked.workload.splits
    assert splits is not None  # a preflight has read them
    return splits.train[0]


def _content(plan: SearchPlan, checked: Preflight) -> dict[str, Any]:
    from trainables.models.base_model import load_tokenizer

    example = _first(checked)
    return {
        **{name: checked.data[name] for name in ("rows", "used", "left_out", "tokens")},
        "example": {
            "ids": list(example.input_ids),
            "labels": list(example.labels),
            "text": load_tokenizer(checked.workload.model).decode(example.input_ids),
        },
        "allocations": {
            name: allocation and dict(allocation.ranks) for name, allocation in checked.allocations.items()
        },
        "seconds": _seconds(plan, checked),
        **({} if plan.time_limit is None else {"trials": plan.trials, "confirm_seeds": plan.confirm_seeds}),
        "memory_bytes": _memory_bytes(plan, checked),
        "memory": _memory(plan, checked).content,
        "disk_bytes": disk_space.needed_bytes(plan, checked),
    }


def _seconds(plan: SearchPlan, checked: Preflight) -> float:
    """Return about how long the training takes if one trial follows the other: six operations a weight and token."""
    tokens = checked.token_estimate(plan.trials + plan.most_confirmations + plan.short_runs)
    return 6 * checked.shape.params * tokens / _operations_a_second()


def run_seconds(plan: SearchPlan, checked: Preflight) -> float:
    """Return about how long one trial takes that is trained in full and has a device for itself."""
    return 6 * checked.shape.params * checked.token_estimate(1) / _operations_a_second()


def _operations_a_second(times: int = 8) -> float:
    """Return how fast products are computed here, as training computes them, once the device is ready for them."""
    import torch

    device = here()
    size = PRODUCT_OF_GPU if device.has_own_memory else PRODUCT_OF_CPU
    factor = torch.ones(size, size, device=device.name)
    with device.autocast():
        (factor @ factor).sum().item()
        began = time.perf_counter()
        for _ in range(times):
            factor = factor @ factor / size
        factor.sum().item()  # waits for a GPU
    return float(2 * size**3 * times / (time.perf_counter() - began))


def _memory_bytes(plan: SearchPlan, checked: Preflight) -> int:
    """Return about what a process takes that trains."""
    needs = _memory(plan, checked)
    if needs.fit is not None:
        return needs.fit.bytes
    if needs.footprint is not None:
        return needs.footprint.total(checked.workload.pack_size, 1, True)
    batch = token_bytes(checked.shape) * plan.batch_size * checked.workload.data.max_length
    adapters = 4 * FLOAT_BYTES * checked.workload.budget.params * plan.trials_per_pack
    return FLOAT_BYTES * checked.shape.params + batch + adapters


def _memory(plan: SearchPlan, checked: Preflight) -> memory.Memory:
    here = memory.on_this_machine(plan, checked)
    return memory.memory_of(*here, memory.bytes_here(here[0]))


def _compact(ranks: list[int]) -> str:
    return " ".join(map(str, ranks)) if len(ranks) <= 64 else " ".join(map(str, ranks[:32])) + " …"
