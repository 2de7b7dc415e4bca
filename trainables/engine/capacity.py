"""How many trials fit onto a device together: measured in training, not guessed."""

import math
from collections.abc import Sequence

from strategies.baseline import Baseline
from trainables.engine.pack import Pack, Slot
from trainables.engine.prefix_cache import LIMIT_BYTES
from trainables.models.device import device_of
from trainables.spec import TrialSpec, Workload

MOST = 16
SHARE = 0.85


def slots_that_fit(workload: Workload, most: int = MOST) -> int:
    """Train one step with one trial and with two, on the longest examples, and extrapolate.

    Args:
        workload: What the trials will share; its device is measured.
        most: Answer to give where more would fit.

    Returns:
        Trials that fit into ``SHARE`` of the device's memory, without what other processes and the cached states of
        frozen blocks take; at least 1.
    """
    pack = Pack.of(workload, workload.micro_batch)
    train = pack.splits.train
    longest = sorted(range(len(train)), key=lambda index: -len(train[index].input_ids))[: workload.batch_size]
    spec = TrialSpec(Baseline.name, Baseline(), learning_rate=1e-6)
    slots = [pack.admit(workload, spec) for _ in range(2)]
    for slot in slots:
        slot.learner.order = [tuple((longest * workload.batch_size)[: workload.batch_size])] * workload.steps
    device = device_of(pack.device)
    device.release_memory()
    device.forget_peak()  # that of whatever was looked at before
    one, two = _peak(pack, slots[:1]), _peak(pack, slots)
    return fitting(one, two, device.available_bytes() - LIMIT_BYTES, most)


def fitting(one: int, two: int, available: int, most: int) -> int:
    """Return how many trials fit, from the peaks of one and of two and the available memory, in bytes.

    Two that take no more than one say nothing of a third.
    """
    per_trial, free = two - one, SHARE * available - one
    trials = 1 + math.floor(free / per_trial) if per_trial > 0 else 2 if free >= 0 else 1
    return max(1, min(most, trials))


def _peak(pack: Pack, slots: Sequence[Slot]) -> int:
    pack.step(slots)
    return device_of(pack.device).peak_bytes()
