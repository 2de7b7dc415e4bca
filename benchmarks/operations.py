"""Operators of a packed training step, of an evaluation and of the bare base: ``python -m benchmarks.operations``.

They are counted on a CPU, the logits in chunks of a GPU's size: a CPU's are as small as its caches.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import workloads
from strategies import SEARCHED, RankBudget
from trainables.data.source import DataSource
from trainables.data.splits import Example
from trainables.engine.pack import Pack, Slot
from trainables.engine.sequence_packing import arrange
from trainables.models.base_model import load_tokenizer, shape_of
from trainables.models.device import CUDA, Cuda, Device
from trainables.models.transformers_compat import rows_known
from trainables.spec import TrialSpec, Workload
from trainables.training.losses import losses_at

COUNTS = 1, 4, 16
WITHOUT_EVIDENCE = "baseline", "linear_decay", "attention_heavy"
ROWS = 8
READS = "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero"
BY_BOOLEANS = "aten::index", "aten::index_put"
"""Operators that read how many booleans are true, if they are given any."""


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators by name, those inside others as well; views compute nothing and are left out.

    ``reads`` counts what a device's queue would be waited for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count an operator and compute it."""
        name = func.name().partition(".")[0]  # without which of its overloads
        if not func.is_view:
            self.calls[name] += 1
        if name in READS or (name in BY_BOOLEANS and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.reads[name] += 1
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts the tensors of which Python gets all numbers, which no operator does."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count a read and do it."""
        self.reads += func is torch.Tensor.tolist
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted.

    Args:
        model: ``bundled`` or ``llama``.
        work: ``step`` or ``evaluation``.
        trials: In the pack; 0 is the bare base on one trial's rows.
        calls: Operator -> how often it was called.
        reads: Operator -> how often it read a number from the device.
    """

    model: str
    work: str
    trials: int
    calls: dict[str, int]
    reads: dict[str, int]

    @property
    def operators(self) -> int:
        return sum(self.calls.values())

    @property
    def numbers_read(self) -> int:
        return sum(self.reads.values())

    def row(self) -> dict[str, Any]:
        """Return it for a file, with the sums."""
        return {"model": self.model, "work": self.work, "trials": self.trials, "operators": self.operators,
                "numbers_read": self.numbers_read, "calls": self.calls, "reads": self.reads}  # fmt: skip


def llama() -> str:
    """Return the folder of a Llama of four blocks with random weights and the bundled tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    folder = tempfile.mkdtemp(prefix="llama-")
    tokenizer = load_tokenizer("bundled")
    set_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


Works = dict[str, Callable[[], object]]
MODELS: dict[str, Callable[[], str]] = {"bundled": lambda: "bundled", "llama": llama}


def counts_of(name: str, trials: Sequence[int] = COUNTS, length: int = 128) -> list[Count]:
    """Return what a step and an evaluation of the bare base and of so many trials take.

    Args:
        name: Of ``MODELS``.
        trials: In a pack.
        length: Tokens of a row.
    """
    model = MODELS[name]()
    source = DataSource(train_examples=ROWS * 4, validation_examples=ROWS, test_examples=ROWS, max_length=length)
    budget = RankBudget.like_uniform(2, shape_of(model).sites)
    workload = Workload(model, source, budget, epochs=4, batch_size=ROWS, reports=1, scale=2.0)
    pack, counted = Pack.of(workload, ROWS), []
    with mock.patch.object(Device, "head_elements", Cuda(CUDA).head_elements):
        works: Works = {"step": partial(base_step, pack), "evaluation": partial(base_evaluation, pack)}
        counted += [Count(name, work, 0, *counted_in(do)) for work, do in works.items()]
        for number in trials:
            slots = admitted(pack, workload, number)
            works = {"step": partial(pack.step, slots), "evaluation": partial(pack.evaluate, slots, "validation")}
            counted += [Count(name, work, number, *counted_in(do)) for work, do in works.items()]
            for slot in slots:
                pack.forget(slot)
    return counted


def admitted(pack: Pack, workload: Workload, number: int) -> list[Slot]:
    """Return so many trials of strategies that need no evidence."""
    configs = [c for c in workloads.configs(len(SEARCHED) * number) if c.strategy in WITHOUT_EVIDENCE]
    return [pack.admit(workload, TrialSpec.from_config(config)) for config in configs[:number]]


def counted_in(work: Callable[[], Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the operators and the reads of ``work``, done once before: that makes what later ones use again."""
    work()
    with Operators() as operators, Lists() as lists:
        work()
    reads = Counter({"Tensor.tolist": lists.reads} if lists.reads else {}) + operators.reads
    return dict(operators.calls.most_common()), dict(reads)


def base_step(pack: Pack) -> None:
    """Compute the losses of a trial's rows and their activations' gradients through the base alone."""
    handle = pack.base.model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_())
    try:
        base_losses(pack, pack.splits.train[:ROWS]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        handle.remove()


@torch.inference_mode()
def base_evaluation(pack: Pack) -> None:
    """Read the losses of the validation rows through the base alone."""
    base_losses(pack, pack.splits.validation).tolist()


def base_losses(pack: Pack, rows: Sequence[Example]) -> torch.Tensor:
    """Return the losses of rows padded to the longest, which is the least that the base can be given."""
    lanes = arrange([[len(row.input_ids) for row in rows]], 1, False, pack.device)
    inputs = lanes.inputs(rows, pack.base.pad_id)
    with pack.base.autocast(), rows_known(joined=False):
        return losses_at(pack.base.model, inputs.model, inputs.places, inputs.targets, pack.base.separable_head)


@click.command(help=__doc__)
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="File for every operator.")
def main(output: Path | None) -> None:
    """Count and print; write every operator's number to the file."""
    rows = [count.row() for model in MODELS for count in counts_of(model)]
    for row in rows:
        whose = f"{row['trials']} trials" if row["trials"] else "bare base"
        print(f"{row['model']}, {row['work']}, {whose}: {row['operators']:,} operators, {row['numbers_read']:,} reads")
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
