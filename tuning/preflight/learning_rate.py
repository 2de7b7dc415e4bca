"""Around which learning rate strategies are searched, where nobody says it: what suits plain LoRA in short trials."""

import logging
from dataclasses import replace

import ray

from trainables.actors.host_registry import Hosts
from trainables.learning_rates import Bracket
from tuning.cluster.hosting import ask, release
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import Preflight

log = logging.getLogger(__name__)


def centred(
    plan: SearchPlan, checked: Preflight, hosts: Hosts, observer: SearchObserver
) -> tuple[SearchPlan, Preflight]:
    """Return the plan with a learning rate, and what short trials have shown.

    Args:
        plan: The search; one that has a learning rate, or searches nothing, stays as it is.
        checked: What is known of it.
        hosts: Who trains.
        observer: Hears what was found.

    Raises:
        ValueError: The trials cannot be trained.
    """
    if not plan.short_runs:
        return plan, checked
    usual = plan.centre_learning_rate
    try:
        bracket: Bracket = ask(plan, hosts, "learning_rates", usual, plan.seed)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise
    finally:
        release(plan, hosts)
    centre = usual if bracket.best is None else float(f"{bracket.best:.2g}")
    plan = plan.model_copy(update={"learning_rate": centre})
    line = in_words(plan, bracket)
    log.info("%s: %s", line, bracket.losses)
    observer.noted(line)
    return plan, replace(checked, bracket=bracket.rows)


def in_words(plan: SearchPlan, bracket: Bracket) -> str:
    """Return what short trials have shown, and what is searched around it."""
    tried = f"{len(bracket.losses)} short trials of {bracket.steps} steps"
    if bracket.best is None:
        return (
            f"learning rate: plain LoRA diverged in all of {tried}; searched around {plan.learning_rate:g} all the same"
        )
    return f"learning rate: {plan.learning_rate:g} suits plain LoRA best in {tried}, and is what is searched around"
