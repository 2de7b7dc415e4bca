"""By how much the best of a short search is worse than a long one's: ``python -m benchmarks.regret [RUN ...]``.

Of runs it is what their rows say: the best of the first trials of each strategy against the best of them all. Without
any, searches are simulated on a surface whose optimum is known: without plain LoRA's points told to the other
strategies, with them, and with plain LoRA's learning rate found before.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from analysis.results.rows import ResultRow, read_rows
from analysis.results.trial_config import Phase, TrialConfig
from analysis.stats import ranking
from strategies import RankBudget
from strategies.base import Site, relative_depth
from strategies.geometry import GEOMETRIES
from trainables.learning_rates import bracketed
from trainables.spec import TrialSpec
from tuning.callbacks.trial_callback import row_from
from tuning.plan.search_plan import SearchPlan
from tuning.state.record import Record
from tuning.trials.optuna_search import StudySearch
from tuning.trials.sampling import effective_key

STRATEGIES = ("baseline", "linear_decay", "attention_heavy", "plain")
SITES = GEOMETRIES["gpt2"].sites
BUDGET = RankBudget.like_uniform(8, SITES)
WAYS = {
    "without plain LoRA's points": {"plain_points": False, "finds_rate": False},
    "with them": {"plain_points": True, "finds_rate": False},
    "and with its learning rate found first": {"plain_points": True, "finds_rate": True},
}
HEADERS = "| search | strategy | trials | regret | no worse than plain LoRA's best |"


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--trials", default=20, show_default=True, help="Trials a strategy, of the short search.")
@click.option("--long", "many", default=100, show_default=True, help="Trials a strategy, of a simulated long search.")
@click.option("--searches", default=10, show_default=True, help="Simulated short searches of each kind.")
def main(runs: tuple[Path, ...], trials: int, many: int, searches: int) -> None:
    """Print the regret of each strategy, in nats per token, as a mean over searches."""
    print(f"{HEADERS}\n{'| --- ' * 5}|")
    for run in runs:
        rows = read_rows(run / "rows.jsonl")
        _print(run.name, [rows], best_losses(rows), trials)
    if not runs:
        best = best_losses(simulated(many, 0))
        for name, how in WAYS.items():
            _print(name, [simulated(trials, seed, **how) for seed in range(1, searches + 1)], best, trials)


def regrets(rows: Sequence[ResultRow], best: Mapping[str, float], trials: int) -> dict[str, float]:
    """Return strategy -> by how much the best of its first trials is worse than the best that is known; inf if none.

    Args:
        rows: Of a search, in the order in which its trials were drawn.
        best: Strategy -> lowest evaluation loss of a long search, in nats per token.
        trials: How many trials of each strategy count.
    """
    short = best_losses(first_trials(rows, trials))
    return {name: short.get(name, math.inf) - loss for name, loss in best.items()}


def first_trials(rows: Sequence[ResultRow], trials: int) -> list[ResultRow]:
    """Return the first trials of each strategy, in the order in which they were drawn, not in which they ended."""
    drawn = sorted((row for row in rows if row.phase == Phase.SEARCH), key=lambda row: int(row.trial_id[1:]))
    names = dict.fromkeys(row.strategy for row in drawn)
    return [row for name in names for row in [row for row in drawn if row.strategy == name][:trials]]


def best_losses(rows: Sequence[ResultRow]) -> dict[str, float]:
    """Return strategy -> the lowest evaluation loss of its trials that were trained in full."""
    best = ranking.best_of_each_strategy(row for row in rows if row.phase == Phase.SEARCH)
    return {name: row.final_eval_loss or 0.0 for name, row in best.items()}


def simulated(trials: int, seed: int, plain_points: bool = True, finds_rate: bool = True) -> list[ResultRow]:
    """Return the rows of a search on the surface, one trial after the other, none of which is stopped early.

    Args:
        trials: Of each strategy.
        seed: Of the search.
        plain_points: Whether strategies are told how plain LoRA's best trials ended.
        finds_rate: Whether plain LoRA's learning rate is found before, and searched a factor of 4 around; else all are
            searched a factor of 5 around the default.
    """
    rates = {"learning_rate": _rate_of_plain()} if finds_rate else {"learning_rate_factor": 5.0}
    trials_of_all = trials * len(STRATEGIES)
    plan = SearchPlan(strategies=STRATEGIES, num_samples=trials_of_all, seed=seed, plain_points=plain_points, **rates)
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder))
        search = StudySearch(plan, _key, record)
        for number in range(plan.trials):
            _one_trial(search, record, str(number))
        return list(record.rows.values())


def _rate_of_plain() -> float:
    def losses_at(rates: Sequence[float]) -> list[float]:
        return [surface(TrialConfig("baseline", learning_rate=rate)) for rate in rates]

    best = bracketed(SearchPlan().centre_learning_rate, 1, losses_at).best
    assert best is not None
    return best


def _one_trial(search: StudySearch, record: Record, ray_id: str) -> None:
    suggestion = search.suggest(ray_id)
    if isinstance(suggestion, str):  # there is nothing left that differs
        return
    config = TrialConfig.from_ray(suggestion)
    last = {"eval_loss": surface(config), "status": "finished", "report": 1}
    record.ended(row_from(config, last, [{"step": 1, "eval_loss": last["eval_loss"]}]))
    search.on_trial_complete(ray_id, last)


def surface(config: TrialConfig) -> float:
    """Return a loss: a bowl over learning rate, mean depth of the ranks and their share in attention.

    Its optimum is ranks that lie above the middle, with a little more of them in attention, and a learning rate that is
    2.5 times the default for plain LoRA and falls as ranks rise.
    """
    ranks = TrialSpec.from_config(config).allocation(SITES, BUDGET, {}).ranks
    depth = _mean(ranks, {site.name: relative_depth(site, SITES) for site in SITES}, SITES)
    attention = _mean(ranks, {site.name: float(site.kind == "attention") for site in SITES}, SITES)
    best_rate = 2.5 * SearchPlan().centre_learning_rate * math.exp(0.5 - depth)
    rate = math.log((config.learning_rate or best_rate) / best_rate)
    return 4 + 0.02 * rate**2 + 0.3 * (depth - 0.58) ** 2 + 0.2 * (attention - 0.5) ** 2


def _mean(ranks: Mapping[str, int], values: Mapping[str, float], sites: Sequence[Site]) -> float:
    """Return the mean of values of sites over the parameters that they have."""
    weights = [ranks.get(site.name, 0) * site.cost for site in sites]
    return float(np.average([values[site.name] for site in sites], weights=weights))


def _key(config: TrialConfig) -> str:
    spec = TrialSpec.from_config(config)
    allocation = spec.allocation(SITES, BUDGET, {})
    return effective_key(dict(allocation.ranks), {}, spec.learning_rate, 0) + spec.training


def _print(name: str, searches: Sequence[Sequence[ResultRow]], best: Mapping[str, float], trials: int) -> None:
    for line in lines(name, searches, best, trials):
        print(line, flush=True)


def lines(name: str, searches: Sequence[Sequence[ResultRow]], best: Mapping[str, float], trials: int) -> Iterator[str]:
    """Yield a line of the table for each strategy: its mean regret, and how often it came up to plain LoRA's best."""
    every = [regrets(rows, best, trials) for rows in searches]
    shorts = [best_losses(first_trials(rows, trials)) for rows in searches]
    for strategy in best:
        regret = float(np.mean([regrets_of[strategy] for regrets_of in every]))
        came_up = [short.get(strategy, math.inf) <= short.get("baseline", -math.inf) for short in shorts]
        yield f"| {name} | {strategy} | {trials} | {regret:.4f} | {sum(came_up)} of {len(came_up)} |"


if __name__ == "__main__":
    main()
