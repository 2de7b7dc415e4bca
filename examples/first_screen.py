"""Every number of a report's first screen, recomputed from the rows of its search with NumPy and pandas alone.

    python examples/first_screen.py runs/NAME

It imports nothing of this project, so that the answer need not be believed: what it prints is what `## Answer` in
`runs/NAME/report.md` shows. Two things are in no row: the margin, which is in plan.json (or, if that is a share of a
doubling, in verdict.json), and the loss of the untouched base, which is in facts.json. All formulas are in the
docstring of analysis/stats/statistics.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

LEVEL, POWER, MOST_SEEDS = 0.95, 0.8, 1000


def t_quantile(probability, freedom):
    """Quantile of Student's t. With x = sqrt(f) tan(u) its density is that of cos(u)^(f - 1) on (-pi/2, pi/2)."""
    u = np.linspace(-np.pi / 2, np.pi / 2, 40_001)
    density = np.cos(u) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.sqrt(freedom) * np.tan(np.interp(probability, mass / mass[-1], u))


def jackknife(sums, tokens):
    """Variance of sum(sums) / sum(tokens) from the choice of documents, each left out once."""
    without_one = (sums.sum() - sums) / (tokens.sum() - tokens)
    return (len(tokens) - 1) / len(tokens) * ((without_one - sums.sum() / tokens.sum()) ** 2).sum()


class Comparison:
    """Runs of a strategy against plain LoRA's of the same seeds; a difference below 0 is an advantage."""

    def __init__(self, runs, plain, comparisons):
        pairs = runs.merge(plain, on="seed", suffixes=("", "_plain")).dropna(subset=["test_loss", "test_loss_plain"])
        self.differences = (pairs.test_loss - pairs.test_loss_plain).to_numpy()
        self.seeds, self.mean = len(pairs), self.differences.mean() if len(pairs) else np.nan
        self.quantile = 1 - (1 - LEVEL) / comparisons / 2
        self.seed_variance = self.differences.var(ddof=1) if self.seeds > 1 else np.nan
        self.text_shared = self.text_by_seed = 0.0
        self.text_freedom = 1.0
        if self.seeds > 1 and pairs[["test_documents", "test_documents_plain"]].notna().all(axis=None):
            self._documents(*(np.array(pairs[name].tolist()) for name in ("test_documents", "test_documents_plain")))

    def _documents(self, runs, plain):
        """Take note of the documents: arrays of (seeds, documents, 2), summed losses and tokens."""
        tokens, by_document = runs[0, :, 1], runs[:, :, 0] - plain[:, :, 0]
        mean = by_document.mean(axis=0)
        by_seed = sum(jackknife(row - mean, tokens) for row in by_document) / (self.seeds - 1)
        self.text_by_seed, self.text_shared = by_seed, max(0.0, jackknife(mean, tokens) - by_seed / self.seeds)
        self.text_freedom = max(1.0, tokens.sum() ** 2 / (tokens**2).sum() - 1)

    def half_width(self, quantile, seeds):
        """Half-width of the interval of the mean of so many seeds, at a quantile of Student's t."""
        text = self.text_shared + self.text_by_seed / seeds
        of_seeds = t_quantile(quantile, seeds - 1) ** 2 * self.seed_variance / seeds
        return np.sqrt(of_seeds + (t_quantile(quantile, self.text_freedom) ** 2 * text if text else 0.0))

    def visible(self, seeds):
        """The least difference that so many seeds show, 8 times in 10."""
        return self.half_width(self.quantile, seeds) + self.half_width(POWER, seeds)

    def seeds_to_see(self, difference):
        """The fewest seeds that show a difference, found by halving; None above 1,000."""
        low, high = 1, MOST_SEEDS
        if self.visible(high) > difference:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.visible(middle) <= difference else (middle, high)
        return high

    @property
    def interval(self):
        """Confidence interval of the mean difference; all of a search hold together 95 times in 100."""
        half = self.half_width(self.quantile, self.seeds) if self.seeds > 1 else np.nan
        return self.mean - half, self.mean + half


def percent(difference):
    """A difference in nats as a share of perplexity, with two significant digits."""
    value = -100 * np.expm1(difference)
    return f"{value:.0f} %" if abs(value) >= 10 else f"{value:.2g} %"


def read(folder):
    """The confirmation runs, controls left out, with a label for each way to train."""
    rows = pd.DataFrame([json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()])
    rows = rows.reindex(columns=[*rows.columns, *{"control_of", "budget_share", "test_documents"} - {*rows.columns}])
    rows = rows.drop_duplicates("trial_id", keep="last")
    rows = rows[(rows.phase == "confirm") & ~rows.strategy.isin(["shuffled", "inverted", "frozen"])]
    share = rows.budget_share.astype(float).fillna(1.0)
    of_budget = share.map(" at {:.2g} of the budget".format).where(share != 1, "")
    return rows.assign(label=rows.strategy + of_budget)


def margin_of(plan, folder):
    """The difference that does not matter; what a share of a doubling came to, verdict.json has."""
    given = plan["margin"]
    return json.loads((folder / "verdict.json").read_text())["margin"] if isinstance(given, str) else given


def show(name, runs):
    """Print a line of the table, and the ranks of the run of lowest validation loss."""
    loss, seconds, params = runs.test_loss.mean(), runs.training_time_seconds.mean(), runs.trainable_parameters.max()
    print(f"{name}: test loss {loss:.4f}, perplexity {np.exp(loss):.2f}, {params:,.0f} parameters, {seconds:,.1f} s")
    best = runs.loc[runs.final_eval_loss.idxmin()]
    print(f"{name}: ranks {min(best.ranks.values())} to {max(best.ranks.values())}, {best.trainable_parameters:,.0f}")


def main(folder):
    """Print the first screen's numbers."""
    confirmed = read(folder)
    plan, facts = (json.loads((folder / name).read_text()) for name in ("plan.json", "facts.json"))
    if base := facts.get("base_losses", {}).get("test_loss"):
        print(f"the base, untouched: test loss {base:.4f}, perplexity {np.exp(base):.2f}, 0 parameters")
    print(f"plan: {plan['train_examples']:,} training examples, {facts.get('budget_params') or 0:,} parameters")
    groups = dict(list(confirmed[confirmed.status == "finished"].groupby("label", sort=False)))
    plain = groups.pop("baseline")
    compared = {name: Comparison(runs, plain, len(groups)) for name, runs in groups.items()}
    for name, item in compared.items():
        low, high = item.interval
        print(f"{name}: {item.mean:+.4f}, {low:+.4f} to {high:+.4f}, {item.seeds} seeds")
        print(f"{name}: perplexity lower by {percent(item.mean)}, {percent(high)} to {percent(low)}")
    margin = margin_of(plan, folder)
    winners = [name for name, item in compared.items() if item.interval[1] < 0 and item.interval[0] <= -margin]
    used = min(winners, key=lambda name: groups[name].final_eval_loss.mean()) if winners else None
    nearest = used or min(compared, key=lambda name: compared[name].mean)
    show("plain LoRA", plain)
    show(nearest, groups[nearest])
    print(f"use: {used or 'plain LoRA'}; {len(compared)} intervals hold together 95 times in 100")
    visible = max(item.visible(item.seeds) for item in compared.values())
    needed = [item.seeds_to_see(margin) for item in compared.values()]
    print(
        f"seen: {percent(-visible)}, {POWER * 10:.0f} times in 10; to see {percent(-margin)}: "
        f"{'no number of seeds' if None in needed else max(needed)}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
