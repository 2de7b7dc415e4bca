"""What one trial does, and what it shares with the others."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from analysis.results.trial_config import TrialConfig
from strategies import CONTROLS, STRATEGIES, Frozen, RankAllocation, RankBudget, Scorer, Strategy, allocate
from strategies.allocation import LARGEST_SIZE
from strategies.base import Evidence, Site
from strategies.baseline import Baseline
from strategies.official import OFFICIAL, OfficialExperiment
from trainables.data.splits import DataSource, Splits
from trainables.models.coverage import Coverage
from trainables.models.device import CPU, device_of
from trainables.models.precision import IN_FLOAT32, Precision

if TYPE_CHECKING:  # a wrong flag should not take as long to be named as torch to be imported
    import torch

Scaling = Literal["constant", "alpha/r", "alpha/sqrt(r)"]
SCALINGS: tuple[Scaling, ...] = ("constant", "alpha/r", "alpha/sqrt(r)")


@dataclass(frozen=True, slots=True)
class Workload:
    """What all trials of a search share.

    Args:
        model: ``bundled``, a local directory or a hub id.
        data: Where examples come from, and how many.
        budget: What each trial may spend, official experiments apart.
        epochs: Passes over the training split.
        batch_size: Examples per optimizer step.
        reports: Evaluations per trial, evenly spaced; the scheduler decides at each.
        scale: The adapter's scale at the budget's mean rank.
        dropout: Dropout before A.
        weight_decay: AdamW's, on the adapter.
        clip_norm: Largest gradient norm; larger ones are scaled down.
        warmup: Share of the steps with rising learning rate.
        threads: CPU threads of a process that trains.
        device: Name of a device; a machine may have a GPU that the search was not given.
        pack_size: Trials that share a process and its base.
        precision: How that lies in memory.
        recomputes: Whether its blocks keep their inputs alone for the backward pass.
        captures: Whether packed passes are captured, where the device can.
        rows_per_pass: Rows of a trial in one packed pass, where memory decides; None where speed may.
        evidence: What was measured before training; empty if no strategy needs it.
        coverage: The matrices that can carry an adapter; None takes all that the model's modules tell of.
        base: ``identity`` of the model that the search was planned with; None trains on whatever is there.
        splits: The examples themselves, so that no other node must read them; None has them read from ``data``.
        tensors: Measurement, as a strategy names it -> site -> what adapters begin from; empty if none needs any.
    """

    model: str
    data: DataSource
    budget: RankBudget
    epochs: float
    batch_size: int
    reports: int
    scale: float
    dropout: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup: float = 0.06
    threads: int = 1
    device: str = CPU
    pack_size: int = 1
    precision: Precision = IN_FLOAT32
    recomputes: bool = False
    captures: bool = True
    rows_per_pass: int | None = None
    evidence: Evidence = field(default_factory=dict)
    coverage: Coverage | None = None
    base: str | None = None
    splits: Splits | None = None
    tensors: "Mapping[str, Mapping[str, torch.Tensor]]" = field(default_factory=dict)

    @property
    def micro_batch(self) -> int:
        """Rows of a trial in one packed pass: on CPU a pack's rows together are one batch, which caches hold."""
        if self.rows_per_pass is not None:
            return self.rows_per_pass
        if device_of(self.device).has_own_memory:
            return self.batch_size
        return max(
            rows
            for rows in range(1, self.batch_size + 1)
            if self.batch_size % rows == 0 and rows * self.pack_size <= max(self.batch_size, self.pack_size)
        )

    @property
    def rows_together(self) -> int:
        """Rows of one pass of the trials together, for which memory was planned; at most those of a batch."""
        return min(self.batch_size, self.micro_batch * self.pack_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of a full trial."""
        return max(1, round(self.epochs * self.data.train_examples / self.batch_size))

    @property
    def first_report_after_warmup(self) -> int:
        """Number of the first report, counted from 1, before which the learning rate has risen to its highest."""
        interval, rising = math.ceil(self.steps / self.reports), max(1, round(self.warmup * self.steps))
        return min(self.reports, math.ceil(rising / interval))


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """One trial's own choices.

    Args:
        label: The strategy's name, as reports show it.
        allocator: What decides the ranks.
        learning_rate: Peak learning rate.
        scaling: How the adapter's scale depends on its rank.
        seed: Seed of the adapter's initial weights, the data order and dropout.
        budget_share: Share of the workload's budget that the trial may spend; above 1 for plain LoRA that shows what
            more parameters are worth.
        given_alphas: LoRA's alpha for each adapted site, if it is to be that of an earlier trial; None has ``scaling``
            say it.
    """

    label: str
    allocator: Scorer | OfficialExperiment
    learning_rate: float
    scaling: Scaling = "constant"
    seed: int = 0
    budget_share: float = 1.0
    given_alphas: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < 100:
            raise ValueError(f"learning_rate must be in (0, 100), got {self.learning_rate}")
        most = LARGEST_SIZE if self.label == Baseline.name else 1.0
        if not 0 < self.budget_share <= most:
            raise ValueError(f"budget_share must be in (0, {most:g}], got {self.budget_share}")
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {self.scaling!r}")

    @classmethod
    def from_config(cls, config: TrialConfig) -> Self:
        """Make the strategy that a configuration names, with its hyperparameters.

        Raises:
            ValueError: The strategy is unknown, a value is out of range, or there is no learning rate.
        """
        if config.learning_rate is None:
            raise ValueError(f"{config.name}: no learning rate")
        chosen = {"scaling": config.scaling, "seed": config.seed, "budget_share": config.budget_share}
        common: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        return cls(config.strategy, _allocator(config), config.learning_rate, **common)

    def allocation(self, sites: Sequence[Site], budget: RankBudget, evidence: Evidence) -> RankAllocation:
        """Return the planned ranks, which cost no more than the trial's share of ``budget``.

        Of a strategy that allocates while training they are those that it begins with.
        """
        if isinstance(self.allocator, OfficialExperiment):
            return self.allocator.allocation(sites)
        share = budget.share(self.budget_share)
        begun = share if self.strategy is None else self.strategy.start_budget(sites, share)
        return allocate(self.allocator.scores(sites, evidence), sites, begun)

    def digest(self, sites: Sequence[Site], budget: RankBudget, evidence: Evidence) -> str:
        """Return a digest of the ranks that the trial begins with, and of what a parametrization makes of them."""
        begun = self.allocation(sites, budget, evidence)
        if self.parametrization is None:
            return begun.digest
        how = (sorted(begun.adapted.items()), self.allocator, budget.share(self.budget_share))
        return hashlib.sha256(repr(how).encode()).hexdigest()

    @property
    def strategy(self) -> Strategy | None:
        """The strategy as which the trial begins and trains, of a control what it controls; None as plain LoRA."""
        scorer = getattr(self.allocator, "of", self.allocator)
        return scorer if isinstance(scorer, Strategy) else None

    @property
    def parametrization(self) -> str | None:
        """As ``Strategy.parametrization``."""
        return self.strategy.parametrization if self.strategy is not None else None

    def rate_factors(self, sites: Sequence[Site]) -> Mapping[str, float]:
        """As ``Strategy.rate_factors``."""
        return self.strategy.rate_factors(sites) if self.strategy is not None else {}

    @property
    def training(self) -> str:
        """What of the trial, beside ranks, scale, learning rate and seed, makes it train otherwise than others."""
        return self.strategy.training if self.strategy is not None else ""

    def alphas(self, allocation: RankAllocation, sites: Sequence[Site], scale: float) -> dict[str, float]:
        """Return LoRA's alpha for each adapted site, so that alpha / rank is the scale that the policy wants.

        All policies agree on ``scale`` at the allocation's mean rank: what plain LoRA of the same cost would have.
        """
        if self.given_alphas is not None:
            return {name: self.given_alphas[name] for name in allocation.adapted}
        mean_rank = allocation.params / sum(site.cost for site in sites)
        exponent = {"constant": 1.0, "alpha/r": 0.0, "alpha/sqrt(r)": 0.5}[self.scaling]
        return {name: scale * mean_rank ** (1 - exponent) * rank**exponent for name, rank in allocation.adapted.items()}


def _allocator(config: TrialConfig) -> Scorer | OfficialExperiment:
    if config.official is not None:
        return next(experiment for experiment in OFFICIAL if experiment.name == config.official)
    scorer = config.control_of if config.strategy in CONTROLS else config.strategy
    scorers: Mapping[str, type[Strategy] | type[Frozen]] = {**STRATEGIES, Frozen.name: Frozen}
    if scorer is None or scorer not in scorers:
        raise ValueError(f"unknown strategy {scorer!r}; known: {', '.join(STRATEGIES)}")
    allocator = scorers[scorer](**config.params)
    return CONTROLS[config.strategy](allocator, config.seed or 0) if config.strategy in CONTROLS else allocator
