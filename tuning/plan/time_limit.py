"""A search within a time limit: what fits into it, and which differences that will show."""

import math

from strategies import CONTROLS
from tuning.plan.search_plan import SHARE_TRAINED, SearchPlan

RESERVED, REPORT_SECONDS = 0.04, 45.0
"""What of the limit is kept for the report: a share of it, and at least so much."""
MOST_TRIALS, MOST_SEEDS, FEWEST_SEEDS = 20, 40, 2
"""Trials a strategy and seeds that are planned at most unless they are given, and the fewest that give a verdict."""
SEED_SD, DOUBLING = 0.0057, 0.0073
"""In nats per token: by what differences to plain LoRA differ from seed to seed on the bundled model, and what doubling
plain LoRA's rank gains on a Llama of 1B parameters, from 16 to 64. It gains more on a smaller model, and less on
a larger one."""


def trial_seconds(plan: SearchPlan) -> float:
    """Return how many seconds trials may take of a plan that has a time limit; the rest is for the report."""
    limit = plan.time_limit_seconds or math.inf
    return limit - max(RESERVED * limit, REPORT_SECONDS)


def planned(plan: SearchPlan, run_seconds: float, has_verdict: bool = True) -> SearchPlan:
    """Return a plan with as many trials and seeds as its time limit allows; as it is without one.

    Half of the time is for the search, half for confirmation and controls; what one leaves the other may take. There is
    a trial for each strategy, and there are seeds enough for a verdict, even where the limit is too short for that.

    Args:
        plan: What was asked for; numbers that are given are the most that is planned.
        run_seconds: About how long one trial takes that is trained in full.
        has_verdict: Whether anything is confirmed.
    """
    if plan.time_limit is None:
        return plan
    given, names = plan.model_fields_set, len(plan.strategies)
    most_trials = plan.num_samples if "num_samples" in given else MOST_TRIALS * names
    most_seeds = _most_seeds(plan, "confirm_seeds" in given) if has_verdict else 0
    share = SHARE_TRAINED if plan.scheduler == "asha" else 1.0
    runs, beside = max(0.0, trial_seconds(plan) / run_seconds - plan.short_runs), names + len(CONTROLS)
    seeds = min(most_seeds, max(FEWEST_SEEDS, int(runs / 2 / beside)))
    trials = min(most_trials, max(names, int((runs - _confirmed(plan, seeds)) / share)))
    left = runs - trials * share - _confirmed(plan, 0) - (len(plan.sizes_tried) * seeds if plan.sizes else 0)
    seeds = min(most_seeds, max(seeds, int(left / beside)))
    return plan.model_copy(update={"num_samples": trials, **({} if plan.looks else {"confirm_seeds": seeds})})


def _most_seeds(plan: SearchPlan, is_given: bool) -> int:
    """Return for how many seeds there may be room: with looks as many as are likely, else what is given."""
    if len(plan.strategies) < 2:
        return 0
    if plan.looks:
        return plan.likely_seeds
    return plan.most_seeds if is_given else MOST_SEEDS


def _confirmed(plan: SearchPlan, seeds: int) -> int:
    """Return about how many runs confirm a search: of strategies, controls of one, and other sizes of plain LoRA."""
    return seeds * (len(plan.strategies) + len(CONTROLS) + (len(plan.sizes_tried) if plan.sizes else 0))


def sentence(plan: SearchPlan) -> str:
    """Return what is planned within a time limit, and which differences that would show; with looks, the likely one."""
    from analysis.stats.looks import error_at  # here, since a plan is made before anything large is loaded

    likely = plan.likely_seeds
    seeds = f"{plan.first_seeds} to {plan.most_seeds} seeds, about {likely}" if plan.looks else f"{likely} seeds"
    what = f"{plan.trials} trials for {len(plan.strategies)} strategies, {seeds}"
    if plan.first_seeds < FEWEST_SEEDS or len(plan.strategies) < 2:
        return f"time limit {plan.time_limit}: {what}"
    shown = visible_difference(likely, len(plan.strategies) - 1, error_at(likely, plan.looks))
    usual = "if seeds differ as on the bundled model and a doubling gains what it does on a Llama of 1B"
    differences = f"differences of {shown / DOUBLING:.1f} doublings ({shown:.2g} nats per token) and more"
    return f"time limit {plan.time_limit}: {what}: {differences}, {usual}"


def visible_difference(seeds: int, comparisons: int, error: float) -> float:
    """Return the least difference, in nats per token, that seeds show 8 times in 10.

    Args:
        seeds: At least two.
        comparisons: Strategies that are compared with plain LoRA.
        error: What all comparisons may err together at these seeds.
    """
    from scipy.special import stdtrit

    from analysis.stats.statistics import POWER

    quantiles = (float(stdtrit(seeds - 1, quantile)) for quantile in (1 - error / 2 / comparisons, POWER))
    return sum(quantiles) * SEED_SD / math.sqrt(seeds)
