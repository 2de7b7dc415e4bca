"""Around which learning rate strategies are searched, where nobody says it: what suits plain LoRA in short trials."""

import logging
from collections.abc import Mapping

from trainables.actors.host_registry import Hosts
from trainables.learning_rates import Bracket
from tuning.cluster.hosting import ask
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan

log = logging.getLogger(__name__)


def centred(
    plan: SearchPlan, hosts: Hosts, observer: SearchObserver
) -> tuple[SearchPlan, tuple[Mapping[str, float | None], ...]]:
    """Return the plan with a learning rate, and what short trials have shown, as ``RunInfo.bracket``.

    Args:
        plan: The search; one that has a learning rate, or searches nothing, stays as it is.
        hosts: Who trains, with the workload that trials will have: what is not to be adapted is known.
        observer: Hears what was found.

    Raises:
        RayError: As of ``hosting.ask``.
    """
    if not plan.short_runs:
        return plan, ()
    usual = plan.centre_learning_rate
    bracket: Bracket = ask(plan, hosts, "learning_rates", usual, plan.seed)
    centre = usual if bracket.best is None else float(f"{bracket.best:.2g}")
    plan = plan.model_copy(update={"learning_rate": centre})
    line = in_words(plan, bracket)
    log.info("%s: %s", line, bracket.losses)
    observer.noted(line)
    return plan, bracket.rows


def in_words(plan: SearchPlan, bracket: Bracket) -> str:
    """Return what short trials have shown, and what is searched around it."""
    tried = f"{len(bracket.losses)} short trials of {bracket.steps} steps"
    if bracket.best is None:
        return (
            f"learning rate: plain LoRA diverged in all of {tried}; searched around {plan.learning_rate:g} all the same"
        )
    return f"learning rate: {plan.learning_rate:g} suits plain LoRA best in {tried}, and is what is searched around"
