"""What is relied on in Optuna without Optuna's promise: a private name, and what it does.

``tests/contract/test_optuna_compat.py`` fails if it does something else, and the bounds in ``pyproject.toml`` keep out
an Optuna for which that has not been run.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial


class WideningSampler(optuna.samplers.TPESampler):
    """Draws some parameters from other ranges than earlier trials had.

    Optuna draws in a group what trials have in common, from the range that the first of them had. A parameter that is
    later asked for from a wider one would never leave it.

    Args:
        ranges: Parameter -> what it is drawn from now, which has all earlier values.
        options: Of ``TPESampler``, ``group=True`` among them.
    """

    def __init__(self, ranges: Mapping[str, optuna.distributions.FloatDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._ranges = dict(ranges)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return what is drawn in groups, as ``TPESampler``; the groups themselves have the ranges from now on."""
        space = super().infer_relative_search_space(study, trial)
        assert self._search_space_group is not None
        for group in self._search_space_group.search_spaces:
            group.update((name, self._ranges[name]) for name in self._ranges.keys() & group.keys())
        return {**space, **{name: self._ranges[name] for name in self._ranges.keys() & space.keys()}}


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
