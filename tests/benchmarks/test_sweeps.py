"""A sweep of ours in the benchmarks is a search like any other."""

from dataclasses import replace

import pytest

from benchmarks import sweeps, workloads


@pytest.mark.search
@pytest.mark.thorough
def test_a_sweep_notes_the_end_of_each_trial_and_refuses_one_that_failed(shared_ray):
    short, configs = workloads.minimal("cpu"), workloads.configs(2)
    clock = sweeps.ours(short, configs)
    assert len(clock.ends) == 2
    assert clock.seconds_per_trial(0, 1) > 0
    configs[1] = replace(configs[1], strategy="none such")
    with pytest.raises(RuntimeError, match="1 of 2 trials ended well"):
        sweeps.ours(short, configs)
