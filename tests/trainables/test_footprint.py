import pytest

from trainables.engine.capacity import fitting, slots_that_fit
from trainables.models.device import Device

GIB = 2**30


@pytest.mark.parametrize(
    ("one", "two", "available", "slots"),
    [
        (5 * GIB, 6 * GIB, 20 * GIB, 13),  # 17 GiB may be taken: 5 for the first, 1 for each other
        (5 * GIB, 6 * GIB, 200 * GIB, 16),
        (5 * GIB, 9 * GIB, 8 * GIB, 1),
        (5 * GIB, 5 * GIB, 20 * GIB, 2),  # the second was too small to be seen
        (5 * GIB, 5 * GIB, 5 * GIB, 1),
    ],
)
def test_trials_fit_as_long_as_a_seventh_of_the_memory_is_left(one, two, available, slots):
    assert fitting(one, two, available, most=16) == slots


def test_a_small_model_fits_often_and_nothing_is_measured_of_what_was_done_before(workload, monkeypatch):
    asked, peaks = [], iter([10, 11])
    monkeypatch.setattr(Device, "release_memory", lambda _: asked.append("release"))
    monkeypatch.setattr(Device, "forget_peak", lambda _: asked.append("forget"))
    monkeypatch.setattr(Device, "peak_bytes", lambda _: asked.append("peak") or next(peaks))
    assert slots_that_fit(workload, most=3) == 3
    assert asked == ["release", "forget", "peak", "peak"]
