"""What a plan would do, and what it would take."""

import click

from strategies import STRATEGIES
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import SMALLEST_SHARE
from tuning.preflight import disk_space
from tuning.preflight.always_plain import always_plain, in_words
from tuning.preflight.preflight import Preflight


def show(plan: SearchPlan, checked: Preflight) -> None:
    """Print the resolved plan, the budget, each strategy's first allocation and the cost."""
    click.echo(plan.model_dump_json(indent=2))
    click.echo(f"\nbudget: {checked.workload.budget.params:,} of {checked.shape.params:,} base parameters")
    click.echo(str(checked.shape.coverage))
    if plan.searches_budget:
        smallest = checked.workload.budget.share(SMALLEST_SHARE)
        click.echo(f"searched: each trial's budget, from {smallest.params:,}")
    for name, allocation in checked.allocations.items():
        if allocation is None:
            click.echo(f"{name}: decided {STRATEGIES[name].decided()}")
            continue
        ranks = list(allocation.ranks.values())
        click.echo(f"{name}: {allocation.params:,} parameters, ranks {min(ranks)} to {max(ranks)}: {_compact(ranks)}")
    if plain := always_plain(plan.strategies, checked.workload):
        click.echo(in_words(plain))
    again = plan.most_confirmations
    tokens = checked.token_estimate(plan.trials + again)
    trials = f"{plan.trials} trials and {again} confirmation runs"
    click.echo(f"cost: at most {trials} x {checked.workload.steps} steps, {tokens:,} tokens in all")
    click.echo(f"disk: about {disk_space.needed_bytes(plan, checked) / 1e6:,.0f} MB in {plan.runs_dir}")


def _compact(ranks: list[int]) -> str:
    return " ".join(map(str, ranks)) if len(ranks) <= 64 else " ".join(map(str, ranks[:32])) + " …"
