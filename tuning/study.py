"""Optuna under Ray Tune, told the truth: finished, pruned or failed, and no configuration twice."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tuning.plan import SearchPlan
from tuning.space import Space, fixed_part

METRIC = "eval_loss"
optuna.logging.set_verbosity(optuna.logging.WARNING)
MAX_DUPLICATES = 100
LEAST_FOR_IMPORTANCE = 8
OBJECTIVES = {"loss": (METRIC,), "loss,params": (METRIC, "trainable_parameters")}


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """``OptunaSearch`` with equal turns for strategies, true trial states and no repeated configuration.

    Args:
        plan: The search.
        effective_key: Config -> a key that is equal for configurations that train the same thing.
    """

    def __init__(self, plan: SearchPlan, effective_key: Callable[[dict[str, Any]], str]) -> None:
        self._plan, self._effective_key = plan, effective_key
        self._turn = 0
        self._exhausted: set[str] = set()
        self._seen: dict[str, str] = {}
        self._values: dict[str, list[float]] = {}
        super().__init__(Space(plan), **objectives(plan), sampler=make_sampler(plan))

    @property
    def study(self) -> optuna.Study:
        """Optuna's study."""
        study: optuna.Study = self._ot_study
        return study

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next configuration, one that has not been handed out before; the end if there is none left."""
        while len(self._exhausted) < len(self._plan.strategies):
            fixed = fixed_part(self._plan, self._turn)
            self._turn += 1
            if fixed["strategy"] not in self._exhausted:
                config = self._new_config(trial_id, fixed)
                if config is not None:
                    return config
                self._exhausted.add(fixed["strategy"])
        return str(Searcher.FINISHED)

    def _new_config(self, trial_id: str, fixed: dict[str, Any]) -> dict[str, Any] | None:
        for _ in range(MAX_DUPLICATES):
            self.study.enqueue_trial(fixed)
            config: dict[str, Any] = super().suggest(trial_id)
            key = self._effective_key(config)
            if key not in self._seen:
                self._seen[key] = trial_id
                return config
            self._tell_duplicate(trial_id, key)
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a finite intermediate value on; Optuna knows none with several objectives."""
        if math.isfinite(result[METRIC]):
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended: COMPLETE, PRUNED (its intermediate values are known) or FAIL."""
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial, status = self._ot_trials[trial_id], (result or {}).get("status")
        trial.set_user_attr("ray_trial_id", trial_id)
        if result and status == "finished" and not error:
            self._values[trial_id] = told(self._plan, result)
            self.study.tell(trial, self._values[trial_id])
        elif result and status == "running" and not error:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def _tell_duplicate(self, trial_id: str, key: str) -> None:
        """Answer a repeated suggestion with what is known: the value of its twin, or nothing."""
        trial, twin = self._ot_trials.pop(trial_id), self._seen[key]
        trial.set_user_attr("same_as", twin)
        if twin in self._values:
            self.study.tell(trial, self._values[twin])
        else:
            self.study.tell(trial, state=TrialState.FAIL)


def objectives(plan: SearchPlan) -> dict[str, Any]:
    """Return ``OptunaSearch``'s metric and mode: one of each, or lists."""
    metrics = OBJECTIVES[plan.objective]
    if len(metrics) == 1:
        return {"metric": metrics[0], "mode": "min"}
    return {"metric": list(metrics), "mode": ["min"] * len(metrics)}


def told(plan: SearchPlan, result: Mapping[str, Any]) -> list[float]:
    """Return what Optuna is told of a finished trial: a value for each objective."""
    return [float(result[name]) for name in OBJECTIVES[plan.objective]]


def make_sampler(plan: SearchPlan) -> optuna.samplers.TPESampler:
    """Return the seeded TPE sampler; a quarter of the search, at most 10 trials, starts it up."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=plan.seed,
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=max(len(plan.strategies), min(10, plan.num_samples // 4)),
        )


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """Return strategy -> parameter -> importance for the loss, from trials that were trained in full.

    A strategy with fewer than ``LEAST_FOR_IMPORTANCE`` such trials is left out. The loss is the first objective.

    Source:
        Watanabe et al., PED-ANOVA (arXiv 2304.10255), as Optuna has it.
    """
    found = {}
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for strategy in dict.fromkeys(trial.params["strategy"] for trial in complete):
        own = [trial for trial in complete if trial.params["strategy"] == strategy]
        if len(own) < LEAST_FOR_IMPORTANCE:
            continue
        alone = optuna.create_study()
        alone.add_trials([_by_loss(trial) for trial in own])
        names = [name for name in own[0].params if name.startswith(f"{strategy}/")]
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(alone, evaluator=evaluator, params=names)
        found[strategy] = {name.removeprefix(f"{strategy}/"): share for name, share in shares.items()}
    return found


def _by_loss(trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        value=trial.values[0], params=trial.params, distributions=trial.distributions, state=trial.state
    )


def mirror(study: optuna.Study, path: str, name: str) -> None:
    """Copy ``study`` into a journal file that optuna-dashboard opens."""
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(path))
    optuna.copy_study(
        from_study_name=study.study_name, from_storage=study._storage, to_storage=storage, to_study_name=name
    )


def effective_key(ranks: dict[str, int], alphas: dict[str, float], learning_rate: float, seed: int) -> str:
    """Return one key for all configurations that train the same adapter the same way (3 digits of learning rate)."""
    return json.dumps([sorted(ranks.items()), sorted(alphas.items()), f"{learning_rate:.2e}", seed])
