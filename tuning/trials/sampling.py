"""How one suggestion is drawn, and when two configurations are the same."""

import hashlib
import json
import warnings

import numpy as np
import optuna

from analysis.results.trial_config import LEARNING_RATE
from tuning.plan.search_space import Space
from tuning.trials.optuna_compat import WideningSampler


def make_sampler(space: Space, number: int) -> optuna.samplers.TPESampler:
    """Return the sampler of one suggestion; a quarter of a strategy's trials, at most 10, start it up.

    Args:
        space: What the suggestion is drawn from; its learning rates may be more than those of earlier trials.
        number: Suggestions before this one.
    """
    plan, name = space.plan, f"{space.strategy}/{LEARNING_RATE}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return WideningSampler(
            {name: optuna.distributions.FloatDistribution(*space.rates, log=True)},
            seed=int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0]),
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=max(1, min(10, plan.num_samples // len(plan.strategies) // 4)),
        )


def effective_key(ranks: dict[str, int], alphas: dict[str, float], learning_rate: float, seed: int) -> str:
    """Return one key for all configurations that train the same adapter the same way (3 digits of learning rate)."""
    parts = [sorted(ranks.items()), sorted(alphas.items()), f"{learning_rate:.2e}", seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
