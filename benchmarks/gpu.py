"""Steps on a GPU, in eight minutes and without Ray: ``python -m benchmarks.gpu``; ``--search``: the whole command.

Rows are full. It prints as it goes, and leaves out what there is no time for. ``--small`` is for a CPU.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import torch

from analysis.results.messages import first_line
from analysis.results.trial_config import TrialConfig
from benchmarks import peers, workloads
from strategies import RankBudget
from trainables.data.source import DataSource
from trainables.engine.captured_passes import CapturedPasses
from trainables.engine.pack import Pack, Slot
from trainables.engine.sequence_packing import arrange
from trainables.models.base_model import load, load_tokenizer, shape_of
from trainables.models.device import CPU, CUDA, device_of, here
from trainables.models.precision import BFLOAT16, FLOAT32, Precision
from trainables.models.transformers_compat import rows_known
from trainables.spec import TrialSpec, Workload
from trainables.training.losses import losses_at

MINUTES, SEARCH_SECONDS = 8, 300
FLOP = 4
"""Of a step for each parameter of the base and token: forward, and the gradients of activations."""
Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the first table.

    Args:
        name: Of the model.
        make: Returns its folder or name.
        length: Tokens of a row.
        batch: Rows of a step.
        trials: Numbers of trials in a pack.
    """

    name: str
    make: Callable[[], str]
    length: int
    batch: int
    trials: tuple[int, ...]


def geometry(kind: str, small: bool) -> str:
    """Return the folder of a model of GPT-2 Medium's or of a Llama of 1B's geometry, with random weights."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, set_seed

    folder, tokenizer = tempfile.mkdtemp(prefix=f"{kind}-"), load_tokenizer("bundled")
    set_seed(0)
    if kind == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 64, "n_head": 2} if small else {"n_layer": 24, "n_embd": 1024, "n_head": 16}
        shape = GPT2Config(**sizes, vocab_size=len(tokenizer) if small else 50_257)
    else:
        shape = LlamaConfig(
            hidden_size=64 if small else 2048, intermediate_size=128 if small else 8192,
            num_hidden_layers=2 if small else 16, num_attention_heads=4 if small else 32,
            num_key_value_heads=2 if small else 8, vocab_size=len(tokenizer) if small else 128_256,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
    AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def cases(small: bool, smollm2: Path | None) -> list[Case]:
    """Return the rows; SmolLM2's only where it is."""
    if small:
        return [Case(kind, partial(geometry, kind, True), 16, 2, (1, 2)) for kind in ("gpt2", "llama")]
    rows = [
        Case("GPT-2 Medium", lambda: geometry("gpt2", False), 128, 8, (1, 4, 16)),
        Case("Llama-1B", lambda: geometry("llama", False), 512, 4, (1, 4)),
        Case("bundled", lambda: "bundled", 128, 8, (1, 4, 16)),
    ]
    return [*rows, Case("SmolLM2-135M", lambda: str(smollm2), 128, 8, (1, 14))] if smollm2 else rows


def workload_of(case: Case, model: str, device: str) -> Workload:
    """Return trials of full rows, with the base in bfloat16 on a GPU."""
    rows = case.batch * 4
    source = DataSource(train_examples=rows, validation_examples=8, test_examples=8, max_length=case.length)
    budget = RankBudget.like_uniform(4, shape_of(model).sites)
    precision = Precision(BFLOAT16 if device == CUDA else FLOAT32)
    workload = Workload(model, source, budget, epochs=10_000, batch_size=case.batch, reports=1, scale=2.0)
    return replace(workload, device=device, precision=precision, rows_per_pass=case.batch)


class Clock:
    """Times work, and prints it.

    Args:
        device: Name of the device.
        seconds: Each is timed for, at least.
        peak: Size of the matrices by which the device's peak is measured.
        until: Time of ``time.monotonic`` after which nothing new is begun.
    """

    def __init__(self, device: str, seconds: float, peak: int, until: float) -> None:
        self.device, self.seconds, self.until = device_of(device), seconds, until
        a, b = (torch.randn(peak, peak, dtype=torch.bfloat16 if device == CUDA else torch.float32) for _ in range(2))
        a, b = self.device.place(a), self.device.place(b)
        self.peak = 2 * peak**3 / self.time(lambda: a @ b)
        print(f"{torch.__version__}, {self.name}, measured peak {self.peak / 1e12:.4g} TFLOP/s", flush=True)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.device.name == CUDA else self.device.name

    def time(self, work: Work) -> float:
        """Return the median seconds of what is done again and again, the first three times apart."""
        for _ in range(3):
            work()
        taken: list[float] = []
        began = time.perf_counter()
        while not taken or time.perf_counter() - began < self.seconds:
            self.device.synchronize()
            started = time.perf_counter()
            work()
            self.device.synchronize()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def line(self, name: str, trials: int, tokens: int, params: int, work: Work) -> float:
        """Time and print a row; return its seconds."""
        seconds, limit = self.time(work), FLOP * params * tokens / self.peak
        print(
            f"| {name} | {trials} | {1e3 * seconds:.2f} | {tokens / seconds:,.0f} | {1e3 * limit:.2f} | "
            f"{limit / seconds:.3f} | {self.device.peak_bytes() / 2**30:.1f} |",
            flush=True,
        )
        return seconds

    def has_time(self) -> bool:
        return time.monotonic() < self.until


@contextmanager
def said_if_it_fails(what: str) -> Iterator[None]:
    """Have the other rows come, whatever one of them raises."""
    try:
        yield
    except Exception as error:
        print(f"| {what}: failed, {type(error).__name__}: {first_line(error)} |", flush=True)


def packed(workload: Workload, trials: int) -> tuple[Pack, list[Slot]]:
    """Return a pack of plain trials of several learning rates."""
    pack = Pack.of(workload, workload.micro_batch)
    configs = [TrialConfig("baseline", learning_rate=5e-4 * 1.2 ** (n % 9), seed=n) for n in range(trials)]
    return pack, [pack.admit(workload, TrialSpec.from_config(config)) for config in configs]


def bare(pack: Pack, trials: int, gradients: bool) -> Work:
    """Return the base alone on the rows of so many trials, captured as ours: forward, and gradients if wanted."""
    rows = [example for _ in range(trials) for example in pack.splits.train[: pack.micro_batch]]
    if not gradients:
        rows = [example for example in pack.splits.validation for _ in range(trials)]
    base, passes = pack.base, CapturedPasses(device_of(pack.device).graphs(), [])
    inputs = arrange([[len(row.input_ids) for row in rows]], 1, False, pack.device).inputs(rows, base.pad_id)

    def work() -> torch.Tensor:
        with torch.set_grad_enabled(gradients), base.autocast(), rows_known(joined=False):
            losses = losses_at(base.model, inputs.model, inputs.places, inputs.targets, base.separable_head).sum()
        if gradients:
            losses.backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    return lambda: passes.do((0,), work)


def first_table(case: Case, device: str, clock: Clock) -> None:
    """Print what a step takes: the experts' and ours, the base alone, and an evaluation beside a bare forward pass."""
    workload = workload_of(case, case.make(), device)
    base = load(workload.model, device, workload.precision)
    tokens = case.batch * case.length
    for name, peer in (("P1", peers.Expert), ("P1+", peers.ExpertPlus)):
        with said_if_it_fails(f"{case.name}, {name}"):
            if name == "P1" and case.name not in {"GPT-2 Medium", "bundled", "gpt2"}:
                continue  # it is written for Conv1D
            trial = peer(workload, TrialConfig("baseline", learning_rate=1e-3, scaling="constant", seed=0))
            clock.line(f"{case.name}: {name}", 1, tokens, base.params, partial(trial.train, 1))
            trial.close()
    for trials in case.trials:
        with said_if_it_fails(f"{case.name}, {trials} trials"):
            if clock.has_time():
                _ours(case, workload, trials, clock)


def _ours(case: Case, workload: Workload, trials: int, clock: Clock) -> None:
    pack, slots = packed(workload, trials)
    device_of(pack.device).forget_peak()
    tokens, params = trials * case.batch * case.length, pack.base.params
    ours = clock.line(f"{case.name}: ours", trials, tokens, params, lambda: pack.step(slots))
    listening = pack.base.model.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_())
    try:
        alone = clock.line(f"{case.name}: bare base", trials, tokens, params, bare(pack, trials, True))
    finally:
        listening.remove()
    evaluation = clock.time(lambda: pack.evaluate(slots, "validation"))
    forward = clock.time(bare(pack, trials, False))
    passes = pack.passes
    print(
        f"| {case.name}, {trials} trials: bare / ours {alone / ours:.2f}; evaluation / bare forward "
        f"{evaluation / forward:.2f}; {passes.captured} graphs, {passes.replayed} replays"
        f"{'; ' + '; '.join(pack.resource_events) if pack.resource_events else ''} |",
        flush=True,
    )


def grid(small: bool, device: str, clock: Clock) -> None:
    """Print tokens a second by tokens of a trial in a step and by trials, on GPT-2 Medium's geometry."""
    model, counts = geometry("gpt2", small), (1, 2) if small else (1, 4, 16)
    sizes: Sequence[tuple[int, int]] = ((2, 16),) if small else ((2, 128), (8, 128), (32, 128))
    print(f"\n| tokens | {' | '.join(f'K = {count}' for count in counts)} |\n|{' --- |' * (len(counts) + 1)}")
    for batch, length in sizes:
        cells = []
        for count in counts:
            cell = "no time"
            if clock.has_time():
                try:
                    workload = workload_of(Case("grid", lambda: model, length, batch, counts), model, device)
                    pack, slots = packed(workload, count)
                    cell = f"{count * batch * length / clock.time(partial(pack.step, slots)):,.0f}"
                except torch.OutOfMemoryError:
                    cell = "out of memory"
            cells.append(cell)
        print(f"| {batch * length} | {' | '.join(cells)} |", flush=True)


def search_command(model: str, folder: Path, small: bool) -> list[str]:
    """Return the whole command: 28 trials of 100 steps on E2E, three seeds."""
    source = workloads.e2e(800)
    chosen = {
        "model": model, "dataset": source.dataset, "prompt-column": source.prompt_column,
        "completion-column": source.completion_column, "train-examples": 16 if small else 800,
        "validation-examples": 8 if small else 64, "test-examples": 8 if small else 64, "epochs": 1, "batch-size": 8,
        "num-samples": 2 if small else 28, "confirm-seeds": 0 if small else 3, "runs-dir": folder,
    }  # fmt: skip
    script = str(Path(__file__).parents[1] / "tune.py")
    return [sys.executable, script, *(f"--{name}={value}" for name, value in chosen.items())]


def search(model: str, small: bool) -> None:
    """Run the whole command and print how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        command, began = search_command(model, Path(folder), small), time.perf_counter()
        print(" ".join(command), flush=True)
        try:
            status: object = subprocess.run(command, timeout=SEARCH_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            status = "stopped, out of time"
        print(f"the whole command: {time.perf_counter() - began:.0f} s, status {status}", flush=True)


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="Tiny models, to see that it runs.")
@click.option("--search", "searches", is_flag=True, help="The whole command on SmolLM2 and E2E instead.")
@click.option("--smollm2", type=click.Path(exists=True, path_type=Path), help="Folder of SmolLM2-135M.")
@click.option("--cpu", is_flag=True, help="Leave a GPU alone.")
def main(small: bool, searches: bool, smollm2: Path | None, cpu: bool) -> None:
    """Measure and print."""
    if searches:
        search("bundled" if small or smollm2 is None else str(smollm2), small)
        return
    device, until = CPU if cpu else here().name, time.monotonic() + 60 * MINUTES
    clock = Clock(device, 0.01 if small else 2.0, 64 if small else 8192 if device == CUDA else 1024, until)
    print("\n| what | trials | ms | tokens/s | limit, ms | share of peak | GiB |\n|" + " --- |" * 7, flush=True)
    for case in cases(small, smollm2):
        if clock.has_time():
            with said_if_it_fails(case.name):
                first_table(case, device, clock)
    grid(small, device, clock)


if __name__ == "__main__":
    main()
