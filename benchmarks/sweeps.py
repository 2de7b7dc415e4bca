"""Ratios of whole searches: sweeps of short trials, a trial's fixed cost, memory, and the cost of the 200th trial."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from benchmarks import peers, workloads
from benchmarks.memory import Meter
from benchmarks.pairs import Ratio, interleaved
from trainables.models import base_model
from trainables.spec import Workload
from tuning.callbacks.trial_callback import Harvest
from tuning.cluster.hosting import hosts_for
from tuning.lifecycle.stop import Stop
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight
from tuning.state.record import Record
from tuning.trials import tuner
from tuning.trials.fixed_search import FixedSearch

TRIALS, STEPS = 32, 5
CONCURRENCIES = (1, 2, 4, 8)


class Clock(ray_tune.Callback):  # type: ignore[misc]
    """Notes when each trial ends, as a callback of Ray Tune or of a search of this project."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ends.append(time.perf_counter())

    def started(self, config: TrialConfig) -> None:
        """Not of interest."""

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Not of interest."""

    def ended(self, row: ResultRow) -> None:
        if row.status == "finished":
            self.ends.append(time.perf_counter())

    def seconds_per_trial(self, first: int, last: int) -> float:
        """Return the mean seconds per trial from one trial's end to another's."""
        return (self.ends[last] - self.ends[first]) / (last - first)


def ours(workload: Workload, configs: list[TrialConfig], **options: Any) -> Clock:
    """Run a search of this project over given configurations, or over Optuna's suggestions if there are none."""
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        plan = SearchPlan(
            model=workload.model, scheduler="fifo", reports=1, num_samples=options.pop("num_samples", len(configs)),
            gpus_per_trial=1 / 16 if workload.device == "cuda" else 0, runs_dir=folder, name="sweep",
            **{"isolation": "packed", **options},
        )  # fmt: skip
        shared = replace(
            workload,
            pack_size=plan.trials_per_pack,
            threads=max(1, int(plan.cpus_per_trial)),
            evidence=workload.evidence,
        )
        clock, record = Clock(), Record(Path(folder))
        preflight = Preflight(base_model.shape_of(workload.model), shared, "", {})
        suggest = FixedSearch(configs, record) if configs else tuner.searcher(plan, preflight, record)
        with hosts_for(plan, shared) as hosts:
            trainable = tuner.trainable(plan, hosts, record)
            harvest = Harvest(record, Stop(record.run_dir, 0), [clock])
            tuner.run(plan, trainable, suggest, plan.trials, harvest, "search")
    if len(clock.ends) < plan.trials:
        raise RuntimeError(f"{len(clock.ends)} of {plan.trials} trials ended well")
    return clock


def peer(
    function: Any, workload: Workload, configs: list[TrialConfig], concurrent: int, reuse_actors: bool | None = None
) -> Clock:
    """Run a sweep of P0, or with ``reuse_actors`` of P1."""
    clock, cpu_share = Clock(), min(1.0, (os.cpu_count() or 1) / concurrent)
    gpu_share = 1 / concurrent if workload.device == "cuda" else 0
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        results = ray_tune.Tuner(
            ray_tune.with_resources(
                ray_tune.with_parameters(function, workload=workload), {"cpu": cpu_share, "gpu": gpu_share}
            ),
            tune_config=ray_tune.TuneConfig(
                num_samples=len(configs),
                search_alg=FixedSearch(configs, Record(Path(folder))),
                max_concurrent_trials=concurrent,
                reuse_actors=reuse_actors,
            ),
            run_config=ray_tune.RunConfig(storage_path=folder, verbose=0, callbacks=[clock]),
        ).fit()
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} trials of {function.__name__} failed: {results.errors[0]}")
    return clock


def _experts(workload: Workload, configs: list[TrialConfig], concurrent: int) -> Clock:
    return peer(peers.expert, workload, configs, concurrent, reuse_actors=True)


def timed(sweep: Callable[[], Clock]) -> float:
    """Return the seconds from the start of a sweep to its end."""
    started = time.perf_counter()
    sweep()
    return time.perf_counter() - started


@lru_cache
def best_concurrency(device: str) -> int:
    """Return the number of concurrent trials with which P1 is fastest on this machine."""
    workload, configs = workloads.standard(device, STEPS), workloads.configs(16)
    seconds_taken = {count: timed(partial(_experts, workload, configs, count)) for count in CONCURRENCIES}
    print("P1, 16 trials:", ", ".join(f"{count} at once {seconds:.0f} s" for count, seconds in seconds_taken.items()))
    return min(seconds_taken, key=lambda count: seconds_taken[count])


def sweep_vs_p0(pairs: int, device: str) -> Ratio:
    """Time of 32 short trials: P0 / ours."""
    workload, configs = workloads.standard(device, STEPS), workloads.configs(TRIALS)
    cores = os.cpu_count() or 1
    seconds = interleaved(
        lambda: timed(lambda: peer(peers.tutorial, workload, configs, cores)),
        lambda: timed(lambda: ours(workload, configs)),
        pairs,
    )
    return Ratio(
        "sweep_vs_p0", device, tuple(peer_s / our_s for peer_s, our_s in seconds), 5 if device == "cpu" else 10
    )


def sweep_vs_p1(pairs: int, device: str) -> Ratio:
    """Time of 32 short trials: P1, at its best concurrency, / ours."""
    workload, configs, count = workloads.standard(device, STEPS), workloads.configs(TRIALS), best_concurrency(device)
    seconds = interleaved(
        lambda: timed(partial(_experts, workload, configs, count)),
        lambda: timed(lambda: ours(workload, configs)),
        pairs,
    )
    return Ratio(
        "sweep_vs_p1", device, tuple(peer_s / our_s for peer_s, our_s in seconds), 1.5 if device == "cpu" else 4
    )


def fixed_cost_vs_p0(pairs: int, device: str) -> Ratio:
    """Seconds of each further trial if it trains on next to nothing: P0 / ours."""
    workload, cores = workloads.minimal(device), os.cpu_count() or 1
    seconds = interleaved(
        lambda: peer(peers.tutorial, workload, workloads.configs(12), cores).seconds_per_trial(cores, 11),
        lambda: ours(workload, workloads.configs(48)).seconds_per_trial(4, 47),
        pairs,
    )
    return Ratio("fixed_cost_vs_p0", device, tuple(peer_s / our_s for peer_s, our_s in seconds), 20)


def scaling(pairs: int, device: str) -> Ratio:
    """Seconds of a short trial after 200 of a search with Optuna, against after 20."""
    ratios = []
    for _ in range(pairs):
        clock = ours(workloads.standard(device, STEPS), [], num_samples=200)
        ratios.append(clock.seconds_per_trial(179, 199) / clock.seconds_per_trial(4, 24))
    return Ratio("scaling", device, tuple(ratios), 1.1, at_most=True)


def memory(pairs: int, device: str) -> Ratio:
    """Peak memory of the processes of 8 trials that run at once: each alone / packed."""
    workload, configs = workloads.standard(device, STEPS), workloads.configs(8)
    cores = os.cpu_count() or 1

    def peak(**options: Any) -> float:
        with Meter(device) as meter:
            ours(workload, configs, max_concurrent_trials=8, **options)
        return meter.peak

    peaks = interleaved(
        lambda: peak(isolation="process", cpus_per_trial=cores / 8),
        lambda: peak(pack_size=8, cpus_per_trial=cores),
        pairs,
    )
    return Ratio("memory", device, tuple(alone / packed for alone, packed in peaks), 4 if device == "cpu" else 5)
