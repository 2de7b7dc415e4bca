"""Short trials of plain LoRA: where they look for its learning rate, and that they train what trials train."""

import dataclasses
import math

import pytest

from strategies.baseline import Baseline
from tests.reference import SoloSession
from trainables.engine.batcher import BatchedExecutor
from trainables.engine.pack import Pack
from trainables.learning_rates import Bracket, bracketed, losses_of, short
from trainables.spec import TrialSpec


def bowl(optimum, diverges=math.inf):
    """Return a function of rates whose loss is least at one of them, and which notes what it was asked."""

    def losses_at(rates):
        asked.append(list(rates))
        return [math.inf if rate > diverges else math.log(rate / optimum) ** 2 for rate in rates]

    asked = []
    return losses_at, asked


@pytest.mark.parametrize("off", [1, 5, 1 / 5, 1.9])
def test_an_optimum_that_is_not_where_it_usually_is_lies_between_those_tried(off):
    losses_at, asked = bowl(2e-4 * off)
    bracket = bracketed(2e-4, 20, losses_at)
    assert bracket.best == pytest.approx(2e-4 * off)
    assert [len(rates) for rates in asked] == [7]
    assert [rate for rate, _ in bracket.losses] == pytest.approx([2e-4 * 4.0**power for power in range(-3, 4)])


@pytest.mark.parametrize(("power", "asked_for"), [(-5, [7, 1, 1, 1]), (4, [7, 1, 1])])
def test_rates_beyond_are_tried_while_the_best_is_at_an_end(power, asked_for):
    losses_at, asked = bowl(1e-3 * 4.0**power)
    bracket = bracketed(1e-3, 20, losses_at)
    assert bracket.best == pytest.approx(1e-3 * 4.0**power)
    assert [len(rates) for rates in asked] == asked_for
    assert [*bracket.losses] == sorted(bracket.losses)


def test_nothing_is_tried_beyond_ten():
    bracket = bracketed(1e-2, 20, bowl(1e3)[0])
    assert bracket.best == pytest.approx(1e-2 * 4**4)
    assert bracket.losses[-1][0] == bracket.best


def test_beside_a_rate_that_diverges_the_best_is_the_one_that_was_tried():
    bracket = bracketed(1e-2, 20, bowl(2e-2, diverges=1e-2)[0])
    assert bracket.best == 1e-2
    assert [row["eval_loss"] is None for row in bracket.rows] == [False] * 4 + [True] * 3
    assert {row["steps"] for row in bracket.rows} == {20}


def test_where_all_diverge_there_is_no_best():
    losses_at, asked = bowl(1.0, diverges=0.0)
    assert bracketed(1e-2, 20, losses_at).best is None
    assert len(asked) == 1


def test_losses_that_do_not_differ_have_the_first_of_them_as_best():
    assert Bracket([(0.1, 2.0), (0.4, 2.0), (1.6, 2.0)], 8).best == 0.1


def test_a_short_trial_has_a_quarter_of_the_steps_and_at_least_eight(workload):
    assert (workload.steps, short(workload).steps) == (8, 8)
    assert short(dataclasses.replace(workload, epochs=1)).steps == 4
    assert short(dataclasses.replace(workload, epochs=25)).steps == 25


def test_short_trials_train_as_trials_alone_do_in_as_many_packs_as_it_takes(workload):
    together = dataclasses.replace(short(workload), pack_size=2)
    executor = BatchedExecutor(Pack.of(together, 2))
    rates = [1e-4, 1e-2, 50.0]
    losses = losses_of(executor, together, rates, seed=3)
    for rate, loss in zip(rates[:2], losses, strict=False):
        alone = SoloSession(together, TrialSpec("baseline", Baseline(), rate, seed=3))
        assert loss == pytest.approx(alone.train(8).eval_loss, abs=1e-5)
        alone.close()
    assert losses[0] != losses[1]
    assert not executor.pack._stores


def test_a_short_trial_that_diverges_has_an_infinite_loss(workload):
    broken = dataclasses.replace(short(workload), scale=1e38)
    assert losses_of(BatchedExecutor(Pack.of(broken, 4)), broken, [50.0], seed=0) == [math.inf]
