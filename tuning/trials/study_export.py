"""What is made of a study once it is over: what mattered, and a file for optuna-dashboard."""

from pathlib import Path

import optuna
from optuna.trial import TrialState

from analysis.results.atomic_write import replacing_file
from tuning.trials.optuna_compat import remove_journal
from tuning.trials.optuna_search import STRATEGY

LEAST_FOR_IMPORTANCE, BEST = 30, 1 / 3  # with fewer, the largest share of pure noise is as large as any


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """Return strategy -> parameter -> importance for the loss, from trials that were trained in full.

    A strategy with fewer than ``LEAST_FOR_IMPORTANCE`` such trials is left out. The loss is the first objective.

    Source:
        Watanabe et al., PED-ANOVA (arXiv 2304.10255), as Optuna has it.
    """
    importance = {}
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = [trial for trial in complete if "same_as" not in trial.user_attrs]  # one run counts once
    for strategy in dict.fromkeys(trial.params[STRATEGY] for trial in complete):
        trials = [trial for trial in complete if trial.params[STRATEGY] == strategy]
        if len(trials) < LEAST_FOR_IMPORTANCE:
            continue
        alone = optuna.create_study()
        alone.add_trials([_by_loss(trial) for trial in trials])
        names = [name for name in trials[0].params if name.startswith(f"{strategy}/")]
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST)
        shares = optuna.importance.get_param_importances(alone, evaluator=evaluator, params=names)
        importance[strategy] = {name.removeprefix(f"{strategy}/"): share for name, share in shares.items()}
    return importance


def _by_loss(trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        value=trial.values[0], params=trial.params, distributions=trial.distributions, state=trial.state
    )


def mirror(study: optuna.Study, path: Path, name: str) -> None:
    """Copy ``study`` into a journal file that optuna-dashboard opens; one that is there is replaced."""
    from optuna.storages.journal import JournalFileBackend

    with replacing_file(path) as aside:
        remove_journal(aside)  # what a search left that was killed here
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(aside)))
        # Optuna's own copying wants the storage of the study, which is private
        copy = optuna.create_study(storage=storage, study_name=name, directions=study.directions)
        copy.add_trials(study.get_trials(deepcopy=False))
