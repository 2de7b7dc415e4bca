"""What the threads of several trials do with one pack, and the pack with them."""

import dataclasses
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.reference import SoloSession
from trainables.adapters import adapter
from trainables.data.splits import mean_loss
from trainables.engine.batcher import BatchedExecutor
from trainables.engine.pack import Pack
from trainables.training.session import next_report


def test_many_threads_drive_one_pack_and_each_trial_trains_as_alone(workload, spec):
    trials = [spec(learning_rate=0.01, seed=seed) for seed in range(4)]
    expected = []
    for trial in trials:
        solo = SoloSession(workload, trial)
        expected.append(
            [solo.train(4).eval_loss, solo.train(4).eval_loss, mean_loss(solo.splits.test, solo.test_losses())]
        )
        solo.close()
    pack = Pack.of(workload, 2)
    executor = BatchedExecutor(pack)

    def life(trial):
        session = executor.admit(workload, trial)
        return [
            session.train(4).eval_loss,
            session.train(4).eval_loss,
            mean_loss(session.splits.test, session.test_losses()),
        ]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(life, trials))
    for losses, alone in zip(together, expected, strict=True):
        assert losses == pytest.approx(alone, abs=1e-5)
    assert executor.slot_rounds == 4 * 8 * 2
    assert executor.rounds < executor.slot_rounds


@pytest.fixture
def long(workload):
    """A workload with twenty steps to a report."""
    return dataclasses.replace(workload, epochs=10)


def test_a_trial_is_let_in_at_the_next_step_of_its_neighbours(long, spec, wait_for):
    executor = BatchedExecutor(Pack.of(long, 2))
    first = executor.admit(long, spec(learning_rate=0.01))
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(next_report, first)
        wait_for(lambda: first.learner.step)
        asked_at = first.learner.step
        executor.admit(long, spec(learning_rate=0.02))
        assert first.learner.step < asked_at + 10
        assert report.result()["step"] == 20


def test_a_trial_saved_between_two_steps_reports_as_if_it_had_gone_on(long, strategy, tmp_path, spec, wait_for):
    def session():
        return BatchedExecutor(Pack.of(long, 2)).admit(long, spec(strategy, learning_rate=0.01))

    unbroken = session()
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(next_report, unbroken)
        wait_for(lambda: unbroken.learner.step >= 3)
        unbroken.save(tmp_path / "saved")
        expected = report.result()
    taken_up = session()
    taken_up.load(tmp_path / "saved")
    assert 0 < taken_up.learner.step < 20
    resumed = next_report(taken_up, again=True)
    for name in ("step", "tokens", "report", "train_loss", "eval_loss", "allocation"):
        assert resumed[name] == expected[name], name
    assert next_report(taken_up)["eval_loss"] == next_report(unbroken)["eval_loss"]


def test_while_a_checkpoint_is_written_no_neighbour_moves_what_is_written(long, spec, tmp_path, monkeypatch, wait_for):
    """Whoever trains, comes or goes moves rows of the store that all trials of a pack share."""
    executor = BatchedExecutor(Pack.of(long, 2))
    saved, other = (executor.admit(long, spec(learning_rate=0.01, seed=seed)) for seed in range(2))
    saved.train(1), other.train(1)
    expected = {name: tensor.detach().clone() for name, tensor in saved.learner.adapter.weights.items()}

    def write(tensors, path, **options):
        reports.append(pool.submit(other.train, 1))
        time.sleep(0.2)  # long enough for the other's step
        write_(tensors, path, **options)

    with ThreadPoolExecutor(1) as pool:
        reports, write_ = [], adapter.save_file
        monkeypatch.setattr(adapter, "save_file", write)
        saved.save(tmp_path / "saved")
        assert reports[0].result().step == 2
    written = adapter.load_weights(tmp_path / "saved" / "adapter")
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())


def test_a_trial_whose_checkpoint_cannot_be_loaded_leaves_the_pack(workload, spec, tmp_path):
    pack = Pack.of(workload, 2)
    session = BatchedExecutor(pack).admit(workload, spec(learning_rate=0.01))
    weights = weakref.ref(session.learner.parameters[0])
    try:
        session.load(tmp_path / "none")
    except (ValueError, OSError):
        assert session.failed
    del session
    gc.collect()
    assert weights() is None


def test_a_pack_keeps_nothing_of_a_trial_that_has_left(workload, spec):
    executor = BatchedExecutor(Pack.of(workload, 2))
    session = executor.admit(workload, spec(learning_rate=0.01))
    session.train(1)
    weights = weakref.ref(session.learner.parameters[0])
    session.close()
    del session
    gc.collect()
    assert weights() is None


def test_a_trial_that_raises_leaves_its_neighbours_alone(workload, monkeypatch, spec):
    executor = BatchedExecutor(Pack.of(workload, 2))
    good, bad = (executor.admit(workload, spec(learning_rate=0.01)) for _ in range(2))
    monkeypatch.setattr(bad.learner, "count", lambda loss, tokens: {}["nothing"])
    with ThreadPoolExecutor(2) as pool:
        reports = [pool.submit(session.train, 2) for session in (good, bad)]
        assert reports[0].result().step == 2
        assert isinstance(reports[1].exception(), KeyError)


def test_an_error_in_a_round_reaches_every_trial_in_it_and_leaves_the_pack_usable(workload, monkeypatch, spec):
    pack = Pack.of(workload, 2)
    executor = BatchedExecutor(pack)
    sessions = [executor.admit(workload, spec(learning_rate=0.01, seed=seed)) for seed in range(2)]

    step, failed = pack.step, []

    def failing_once(slots):  # nothing is done until both are in a round
        if failed:
            step(slots)
        elif len(slots) == 2:
            failed.append(True)
            raise ZeroDivisionError

    monkeypatch.setattr(pack, "step", failing_once)
    with ThreadPoolExecutor(2) as pool:
        for report in [pool.submit(session.train, 1) for session in sessions]:
            assert isinstance(report.exception(timeout=60), ZeroDivisionError)
    assert [session.train(1).step for session in sessions] == [1, 1]


def test_a_program_that_is_interrupted_finds_the_pack_at_rest_and_usable(long, monkeypatch, spec):
    executor = BatchedExecutor(Pack.of(long, 2))
    session = executor.admit(long, spec(learning_rate=0.01))
    wait, interrupts = executor._condition.wait, [KeyboardInterrupt]

    def interrupted(*args):
        if interrupts:
            raise interrupts.pop()
        return wait(*args)

    monkeypatch.setattr(executor._condition, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.train(20)
    at_rest = session.learner.step
    assert not executor._requests
    with executor.between_rounds():
        assert session.learner.step == at_rest < 20
    assert session.train(20 - at_rest).step == 20


def test_the_thread_of_a_pack_ends_with_it(workload, spec, wait_for):
    before = set(threading.enumerate())
    session = BatchedExecutor(Pack.of(workload, 2)).admit(workload, spec(learning_rate=0.01))
    session.train(1)
    (thread,) = set(threading.enumerate()) - before
    assert (thread.name, thread.daemon) == ("rounds", True)
    del session
    gc.collect()
    wait_for(lambda: not thread.is_alive(), 60)
