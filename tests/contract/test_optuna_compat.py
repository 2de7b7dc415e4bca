"""Optuna still does what is relied on beyond its documentation."""

import os
import time
import warnings

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages.journal import JournalFileBackend

from tuning.trials.optuna_compat import WideningSampler, drawn_as, remove_journal


def space(trial):
    if trial.suggest_categorical("kind", ("flat", "sloped")) == "sloped":
        trial.suggest_float("slope", -1, 1)
    trial.suggest_float("rate", 1e-3, 1e-1, log=True)


SLOPED = {"kind": "sloped", "slope": 0.5, "rate": 0.01}


def test_a_point_of_a_space_is_drawn_as_optuna_would_have_drawn_it():
    trial = drawn_as({**SLOPED, "of another space": 1}, space)
    assert trial.params == SLOPED
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=1.0))
    study.enqueue_trial(SLOPED)
    drawn = study.ask()
    space(drawn)
    assert (drawn.params, drawn.distributions) == (study.trials[0].params, study.trials[0].distributions)


@pytest.mark.parametrize(
    "wrong", [{"kind": "steep"}, {"slope": 1.5}, {"rate": 1.0}, {"rate": None}], ids=["choice", "end", "log", "missing"]
)
def test_what_is_no_point_of_a_space_is_not_drawn(wrong):
    params = {name: value for name, value in {**SLOPED, **wrong}.items() if value is not None}
    assert drawn_as(params, space) is None


@pytest.mark.parametrize("wide", [True, False])
def test_a_group_is_drawn_from_the_range_that_is_given_and_not_from_the_first_trials(wide):
    before, now = (FloatDistribution(0.01, high, log=True) for high in (0.04, 1.0))
    drawn = []
    for seed in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            options = {"seed": seed, "multivariate": True, "group": True, "n_startup_trials": 1}
            sampler = WideningSampler({"rate": now if wide else before}, **options)
        study = optuna.create_study(sampler=sampler)
        for value in (0.02, 0.03, 0.039):
            study.add_trial(
                optuna.trial.create_trial(params={"rate": value}, distributions={"rate": before}, value=-value)
            )
        drawn.append(study.ask({"rate": now}).params["rate"])
    assert any(rate > 0.04 for rate in drawn) is wide


def test_a_lock_that_a_killed_process_left_is_gone_with_its_journal(tmp_path):
    path = tmp_path / "study.journal"
    killed = JournalFileBackend(str(path))
    assert killed._lock.acquire()
    assert len(os.listdir(tmp_path)) == 2, "the lock lies elsewhere, or there is none"
    (tmp_path / "study.journal-of-another").touch()
    remove_journal(path)
    assert os.listdir(tmp_path) == ["study.journal-of-another"]
    began = time.monotonic()
    optuna.create_study(storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))))
    assert time.monotonic() - began < 20, "Optuna waits for 30 s until it takes a lock"
