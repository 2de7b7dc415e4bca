"""An allocation trained again, alone and to the end, on other rows than the search had."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.results.trial_config import Status
from strategies import Frozen, RankBudget
from trainables.engine.batcher import BatchedExecutor
from trainables.engine.pack import Pack
from trainables.engine.soundness import sound_coverage_of
from trainables.spec import Scaling, TrialSpec, Workload
from trainables.training.session import Diverged, next_report


def prepared(workload: Workload, ranks: Mapping[str, int]) -> Workload:
    """Return a workload of one trial, whose budget is what some ranks cost.

    Args:
        workload: Of the search.
        ranks: Site -> rank, zeros included.

    Raises:
        ValueError: The base's sites are others.
    """
    alone = replace(workload, pack_size=1)
    coverage = sound_coverage_of(alone)
    if {site.name for site in coverage.sites} != ranks.keys():
        raise ValueError(f"--model {workload.model}: its matrices are others than those that have ranks")
    params = sum(site.cost * ranks[site.name] for site in coverage.sites)
    return replace(alone, coverage=coverage, budget=RankBudget(params, 0, max(ranks.values())))


def spec_of(
    workload: Workload, ranks: Mapping[str, int], learning_rate: float, scaling: Scaling, seed: int,
    alphas: Mapping[str, float] | None = None,
) -> TrialSpec:  # fmt: skip
    """Return a trial of exactly these ranks, as plain LoRA trains them.

    Args:
        workload: As ``prepared`` returns it.
        ranks: Site -> rank.
        learning_rate: Peak learning rate.
        scaling: How scales depend on ranks.
        seed: Of initial weights, order and dropout.
        alphas: Adapted site -> alpha in the search, where it began with other ranks than it ended with; None if these
            are not known, and ``scaling`` is to say them.
    """
    assert workload.coverage is not None
    in_order = " ".join(str(ranks[site.name]) for site in workload.coverage.sites)
    return TrialSpec(Frozen.name, Frozen(in_order), learning_rate, scaling, seed, given_alphas=alphas)


def train(
    workload: Workload, spec: TrialSpec, folder: Path, told: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Train a trial to its end, and save its adapter.

    Args:
        workload: What it trains on.
        spec: The trial.
        folder: For the adapter.
        told: Hears each report.

    Returns:
        The last report, as ``next_report`` gives it.

    Raises:
        Diverged: A loss or gradient is not finite.
    """
    session = BatchedExecutor(Pack.of(workload, workload.micro_batch)).admit(workload, spec)
    try:
        while True:
            report = next_report(session)
            told(report)
            if report["status"] == Status.DIVERGED:
                raise Diverged(report["error"])
            if report["done"]:
                session.learner.outcome.save(folder)
                return report
    finally:
        session.close()
