"""What is relied on in Optuna without Optuna's promise: no private name, but what it does.

``tests/contract/test_optuna_compat.py`` fails if it does something else, and the bounds in ``pyproject.toml`` keep out
an Optuna for which that has not been run.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial


def drawn_as(params: Mapping[str, Any], space: Callable[[FixedTrial], Any]) -> FixedTrial | None:
    """Return a trial for which a space has drawn given parameters; None if the space has no such point.

    Optuna raises for a parameter that is missing or no choice, and only warns of a number out of range. There is no
    public question to a distribution whether it has a value.

    Args:
        params: Name -> value, of every parameter that may be drawn.
        space: Draws from the trial.
    """
    trial = optuna.trial.FixedTrial(dict(params))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            space(trial)
        except (ValueError, UserWarning):
            return None
    return trial


def remove_journal(path: Path) -> None:
    """Remove a journal's file, and the lock that Optuna has put beside it for a process that was killed.

    Optuna would wait for that lock for 30 s. How the lock is called is nowhere said; its name begins with the file's.
    """
    for left in (path, *path.parent.glob(f"{path.name}.*")):
        left.unlink(missing_ok=True)
