"""What is made of a study once it is over."""

import random
import time

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from tuning.trials.study_export import LEAST_FOR_IMPORTANCE, importances, mirror


def test_a_study_is_mirrored_to_a_journal_that_optuna_opens(tmp_path):
    study = optuna.create_study()
    study.tell(study.ask(), 1.25)
    mirror(study, tmp_path / "optuna.journal", "mine")
    mirror(study, tmp_path / "optuna.journal", "mine")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    mirrored = optuna.load_study(study_name="mine", storage=storage)
    assert [(trial.state, trial.value) for trial in mirrored.trials] == [(TrialState.COMPLETE, 1.25)]


def test_what_a_search_left_that_was_killed_while_it_mirrored_holds_nobody_up(tmp_path):
    aside = tmp_path / "optuna.journal.partial"
    aside.write_text("{")
    (tmp_path / "optuna.journal.partial.lock").symlink_to(aside)
    began = time.monotonic()
    mirror(optuna.create_study(), tmp_path / "optuna.journal", "mine")
    assert time.monotonic() - began < 20, "Optuna waits for 30 s until it takes a lock"
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.journal"]


def test_importance_is_that_of_the_parameter_that_decides_within_each_strategy():
    rng = random.Random(0)
    kinds = {
        "strategy": CategoricalDistribution(("linear_decay", "baseline")),
        "linear_decay/slope": FloatDistribution(-1, 1),
        "linear_decay/learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
        "baseline/learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
    }

    def trial(strategy):
        slope, rate = rng.uniform(-1, 1), 10 ** rng.uniform(-3, -1)
        if strategy == "baseline":
            params, loss = {"baseline/learning_rate": rate}, rate
        else:
            params, loss = {"linear_decay/slope": slope, "linear_decay/learning_rate": rate}, abs(slope) + 1e-6 * rate
        params["strategy"] = strategy
        return optuna.trial.create_trial(
            params=params, distributions={name: kinds[name] for name in params}, value=loss
        )

    study = optuna.create_study()
    study.add_trials([trial("linear_decay") for _ in range(40)])
    study.add_trials([trial("baseline") for _ in range(LEAST_FOR_IMPORTANCE - 1)])
    importance = importances(study)
    assert list(importance) == ["linear_decay"]
    assert importance["linear_decay"]["slope"] > 0.8
    study.add_trial(trial("baseline"))
    assert list(importances(study)) == ["linear_decay", "baseline"]


def test_neither_stopped_trials_nor_repetitions_count_for_what_mattered():
    kinds = {"strategy": CategoricalDistribution(("baseline",)), "baseline/learning_rate": FloatDistribution(0.1, 9)}

    def trial(number, **choices):
        params = {"strategy": "baseline", "baseline/learning_rate": 0.1 + number / 10}
        return optuna.trial.create_trial(params=params, distributions=kinds, **{"value": number, **choices})

    study = optuna.create_study()
    study.add_trials([trial(number) for number in range(LEAST_FOR_IMPORTANCE - 1)])
    study.add_trial(trial(40, state=TrialState.PRUNED))
    study.add_trial(trial(1, user_attrs={"same_as": "t001"}))
    assert importances(study) == {}
    study.add_trial(trial(41))
    assert importances(study)["baseline"] == {"learning_rate": 1.0}
