"""Ratios of training passes, without a search around them: steady, floor, prefix."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
import torch

from analysis.results.trial_config import TrialConfig
from benchmarks import peers, workloads
from benchmarks.pairs import Ratio, interleaved
from strategies.base import Evidence, Site
from trainables.actors.host import Host
from trainables.data.collate import collate
from trainables.engine.pack import Pack, Slot
from trainables.spec import TrialSpec, Workload

SLOTS = 4


class Drill(Host):
    """A host that trains without evaluating."""

    def fill(self, reference: list[Any], configs: list[TrialConfig]) -> None:
        workload = self._unpack(reference)
        self.pack = Pack.of(workload, workload.micro_batch)
        self.slots = [self.pack.admit(workload, TrialSpec.from_config(config)) for config in configs]

    def train(self, steps: int) -> int:
        """Return the learned tokens."""
        tokens_before = sum(slot.learner.tokens for slot in self.slots)
        train(self.pack, self.slots, steps)
        return sum(slot.learner.tokens for slot in self.slots) - tokens_before


def steady(pairs: int, device: str) -> Ratio:
    """Tokens a second of 16 trials: warm hosts, a core each or the GPU, against warm processes of P1."""
    trials, steps, cores = workloads.configs(16), 4, os.cpu_count() or 1
    host_count, process_count = (cores, cores) if device == "cpu" else (1, 4)
    workload = replace(workloads.standard(device, 32), pack_size=len(trials) // host_count, epochs=20)
    reference = [ray.put(workload)]
    hosts = [_actor(Drill, device, host_count).remote() for _ in range(host_count)]
    ray.get([host.fill.remote(reference, trials[index::host_count]) for index, host in enumerate(hosts)])
    experts = [_actor(peers.Experts, device, process_count).remote() for _ in range(process_count)]

    def ours() -> float:
        started = time.perf_counter()
        tokens: int = sum(ray.get([host.train.remote(steps) for host in hosts]))
        return tokens / (time.perf_counter() - started)

    def theirs() -> float:
        started = time.perf_counter()
        shares = [
            expert.train.remote(workload, trials[index::process_count], steps) for index, expert in enumerate(experts)
        ]
        tokens: int = sum(ray.get(shares))
        return tokens / (time.perf_counter() - started)

    try:
        ours(), theirs()
        speeds = interleaved(theirs, ours, pairs)
    finally:
        for actor in (*hosts, *experts):
            ray.kill(actor)
    return Ratio(
        "steady_vs_p1",
        device,
        tuple(our_speed / their_speed for their_speed, our_speed in speeds),
        1.3 if device == "cpu" else 4,
    )


def floor(pairs: int, device: str) -> Ratio:
    """Time of the base alone over the time of a packed step on the same tokens, one thread."""
    torch.set_num_threads(1)
    steps = 4
    pack, slots = _packed(replace(workloads.standard(device, 32), pack_size=SLOTS, epochs=20), workloads.configs(SLOTS))

    def base_alone() -> float:
        batches = []
        for start in [*range(0, len(slots[0].examples), pack.micro_batch)] * steps:
            indices = [index for slot in slots for index in slot.examples[start : start + pack.micro_batch]]
            batches.append(collate([pack.splits.train[index] for index in indices], pack.base.pad_id, device))
        return peers.floor_seconds(pack.base, batches)

    def ours() -> float:
        return train(pack, slots, steps)

    base_alone(), ours()
    seconds = interleaved(base_alone, ours, pairs)
    return Ratio("floor", device, tuple(base_s / our_s for base_s, our_s in seconds), 0.85 if device == "cpu" else 0.8)


class UpperHalf:
    """Plain LoRA on the upper half of the blocks."""

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        depths = sorted({site.depth for site in sites})
        return {site.name: float(site.depth >= depths[len(depths) // 2]) for site in sites}


def prefix(pairs: int, device: str) -> Ratio:
    """Tokens a second where the lower half of the blocks has rank 0, cached, against all blocks adapted."""
    torch.set_num_threads(1)
    workload = replace(workloads.standard(device, 4), pack_size=SLOTS, epochs=200)
    configs = [TrialConfig("baseline", learning_rate=0.002, seed=seed) for seed in range(SLOTS)]
    pack, all_slots = _packed(workload, configs)
    upper_slots = [
        pack.admit(workload, replace(TrialSpec.from_config(config), allocator=UpperHalf())) for config in configs
    ]
    train(pack, all_slots, 2), train(pack, upper_slots, 4)  # an epoch fills the cache
    seconds = interleaved(lambda: train(pack, all_slots, 4), lambda: train(pack, upper_slots, 4), pairs)
    return Ratio("prefix", device, tuple(all_s / upper_s for all_s, upper_s in seconds), 1.8)


def _actor(actor_class: type, device: str, share: int) -> Any:
    return ray.remote(actor_class).options(num_cpus=0, num_gpus=0.5 / share if device == "cuda" else 0)


def _packed(workload: Workload, configs: list[TrialConfig]) -> tuple[Pack, list[Slot]]:
    pack = Pack.of(workload, workload.micro_batch)
    return pack, [pack.admit(workload, TrialSpec.from_config(config)) for config in configs]


def train(pack: Pack, slots: list[Slot], steps: int) -> float:
    """Return the seconds that some optimizer steps of all slots take."""
    last_step = slots[0].learner.step + steps
    started = time.perf_counter()
    while slots[0].learner.step < last_step:
        pack.step(slots)
    return time.perf_counter() - started
