"""A trial whose losses follow from a formula: a ``Session`` without torch, whose checkpoints are a real one's in small.

For tests of what happens around trials. The base must be a GPT-2 in a local folder.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
from safetensors.numpy import load_file, save_file

from strategies.base import Site
from strategies.baseline import Baseline
from strategies.empirical import EVIDENCE_KINDS, IMPORTANCE
from strategies.geometry import Geometry, gpt2, parameter_efficiency
from strategies.measurement import Measured
from trainables.data.splits import Splits
from trainables.learning_rates import Bracket, bracketed, short
from trainables.models.coverage import Coverage
from trainables.models.files import resolve
from trainables.spec import TrialSpec, Workload
from trainables.training import checkpoint
from trainables.training.session import Diverged, StepReport

LARGEST_SCALE = 1e6
"""A trial of a larger scale diverges at its first step."""
STEP_SECONDS = "FAKE_STEP_SECONDS"
"""Variable of the environment that says how long a step takes; without it a step takes no time."""


def geometry_of(model: str) -> Geometry:
    """Return sites and size of a GPT-2 from its ``config.json``."""
    config = json.loads((Path(resolve(model)) / "config.json").read_text())
    return gpt2(config["n_embd"], config["n_layer"], config["vocab_size"], config["n_positions"])


def loss_of(sites: tuple[Site, ...], ranks: Mapping[str, int], spec: TrialSpec, step: int) -> float:
    """Return the loss after some steps: ``2 + |lg(lr / .02)| / 2 - depth / 5 + seed / 1000 + 1 / (1 + step)``.

    ``depth`` is the mean relative depth of a unit of rank, so that allocations differ.
    """
    deepest = max(site.depth for site in sites) or 1
    units = sum(ranks.values()) or 1
    depth = sum(ranks.get(site.name, 0) * site.depth / deepest for site in sites) / units
    rate = abs(math.log10(spec.learning_rate / 0.02)) / 2
    return 2 + rate - depth / 5 + spec.seed % 7 / 1000 + 1 / (1 + step)


class Rounds:
    """What trials of a host share: one of them is busy at a time. It stands for a executor and for its pack."""

    def __init__(self) -> None:
        self.resource_events: list[str] = []
        self.pack = self
        self._turn = Lock()

    @contextlib.contextmanager
    def between_rounds(self) -> Iterator[None]:
        """Within, no trial trains."""
        with self._turn:
            yield

    def make_room(self) -> None:
        """There are no graphs."""

    def admit(self, workload: Workload, spec: TrialSpec) -> "FakeSession":
        """Let a trial in."""
        return FakeSession(workload, spec, self)

    def step(self, trials: list["FakeLearner"]) -> None:
        """Do one step of every trial."""
        time.sleep(float(os.environ.get(STEP_SECONDS, 0)))
        for trial in trials:
            trial.advance()


@dataclass
class FakeLearner:
    """What belongs to one trial alone: here a counter."""

    workload: Workload
    spec: TrialSpec
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    geometry: Geometry = field(init=False)

    def __post_init__(self) -> None:
        self.geometry = geometry_of(self.workload.model)
        sites, workload = self.geometry.sites, self.workload
        self.allocation = self.spec.allocation(sites, workload.budget, workload.evidence)
        self.alphas = self.spec.alphas(self.allocation, sites, workload.scale)

    @property
    def done(self) -> bool:
        return self.step >= self.workload.steps

    @property
    def loss(self) -> float:
        return loss_of(self.geometry.sites, self.allocation.ranks, self.spec, self.step)

    @property
    def facts(self) -> dict:
        return {
            "ranks": {site.name: self.allocation.ranks.get(site.name, 0) for site in self.geometry.sites},
            "alphas": self.alphas,
            "fan_in_fan_out": True,
            "trainable_parameters": self.allocation.params,
            "parameter_efficiency": parameter_efficiency(self.allocation.params, self.geometry.base_params),
        }

    def advance(self) -> None:
        if self.workload.scale > LARGEST_SCALE:
            raise self.diverged("training loss", math.nan)
        self.step += 1
        self.tokens += 100
        self.seconds += 0.5

    def diverged(self, what: str, value: float) -> Diverged:
        return Diverged(f"{what} {value} at step {self.step}")

    def save(self, folder: Path) -> None:
        progress = checkpoint.Progress(step=self.step, tokens=self.tokens, seconds=self.seconds, **self._ties())
        checkpoint.write(folder, progress, self._write_tensors)

    def load(self, folder: Path) -> None:
        progress = checkpoint.fitting(folder, self._ties())
        self.step, self.tokens, self.seconds = progress.step, progress.tokens, progress.seconds

    def _ties(self) -> dict[str, str]:
        workload, sites = self.workload, self.geometry.sites
        allocation = self.spec.digest(sites, workload.budget, workload.evidence)
        return {"base": str(workload.base), "allocation": allocation}

    def _write_tensors(self, folder: Path) -> None:
        (folder / checkpoint.ADAPTER).mkdir()
        save_file({"step": np.array([self.step])}, folder / checkpoint.STATE)
        save_file({"loss": np.array([self.loss])}, folder / checkpoint.ADAPTER / checkpoint.WEIGHTS)
        config = {"peft_type": "LORA", "target_modules": sorted(self.allocation.adapted)}
        (folder / checkpoint.ADAPTER / checkpoint.CONFIG).write_text(json.dumps(config))


class FakeSession:
    """A trial that trains with others of its host; a ``Session``."""

    failed = False

    def __init__(self, workload: Workload, spec: TrialSpec, rounds: Rounds) -> None:
        self.learner, self.pack = FakeLearner(workload, spec), rounds
        assert workload.splits is not None
        self.splits: Splits = workload.splits

    def train(self, steps: int) -> StepReport:
        learner = self.learner
        for _ in range(min(steps, learner.workload.steps - learner.step)):
            with self.pack.between_rounds():
                self.pack.step([learner])
        return StepReport(learner.step, learner.tokens, learner.loss + 0.1, learner.loss, learner.seconds, 200.0, 10**8)

    def test_losses(self) -> list[float]:
        return [(self.learner.loss + e.document % 5 / 100) * e.learned_tokens for e in self.splits.test]

    def save(self, folder: Path) -> None:
        self.learner.save(folder)

    def load(self, folder: Path) -> None:
        self.learner.load(folder)

    def close(self) -> None:
        pass


def coverage_of(workload: Workload) -> Coverage:
    """Return what a host would find that can be adapted: all that was chosen."""
    assert workload.coverage is not None
    return workload.coverage


def measured_of(workload: Workload, measurement: str) -> Measured:
    """Return what a host would measure: of importance each kind is another power of depth, the rest is measured."""
    if measurement != IMPORTANCE:
        from trainables.evidence.measurements import measure

        return measure(workload, measurement)
    sites = geometry_of(workload.model).sites
    powers = enumerate(EVIDENCE_KINDS, 1)
    return Measured({kind: {s.name: (1.0 + s.depth) ** power for s in sites} for power, kind in powers})


def bracket_of(workload: Workload, usual: float, seed: int) -> Bracket:
    """Return what short trials of plain LoRA would show of its learning rate."""
    brief, sites = short(workload), geometry_of(workload.model).sites

    def losses_at(rates: Sequence[float]) -> list[float]:
        specs = [TrialSpec(Baseline.name, Baseline(), rate, seed=seed) for rate in rates]
        ranks = specs[0].allocation(sites, workload.budget, {}).ranks
        return [loss_of(sites, ranks, spec, brief.steps) for spec in specs]

    return bracketed(usual, brief.steps, losses_at)


BASE_LOSSES = {"validation": 5.5, "test": 5.75}
"""What the untouched base has on each split."""


def continued_by(adapters: Mapping[str, Path | None]) -> tuple[list[dict[str, str]], str]:
    """Return what somebody wrote after two prompts: the name of who did, and of the adapter's trial."""
    said = {name: f"{name} {'' if path is None else path.parents[2].name}" for name, path in adapters.items()}
    return [{"prompt": f"text {number}", **said} for number in range(2)], "Two prompts."


def forms_of(adapter: Path, output: Path) -> float:
    """Write the forms of an adapter, and return its loss, as a host would."""
    for form in (checkpoint.BEST, checkpoint.UNIFORM):
        (output / form).mkdir(parents=True)
        for path in adapter.iterdir():
            (output / form / path.name).write_bytes(path.read_bytes())
    return reloaded_of(adapter)


def reloaded_of(adapter: Path) -> float:
    """Return an adapter's loss on the validation split, whoever measures it."""
    return float(load_file(adapter / checkpoint.WEIGHTS)["loss"][0])


def shrink_curve_of(adapter: Path) -> list[dict[str, float]]:
    """Return the winner at all and at half of its parameters, as a host would have measured it."""
    assert (adapter / checkpoint.CONFIG).is_file()
    return [{"fraction": share, "params": round(1000 * share), "test_loss": 3 - share} for share in (1.0, 0.5)]
