"""Every number of a report's first screen, recomputed from the rows of its search with NumPy and pandas alone.

    python examples/first_screen.py runs/NAME

It imports nothing of this project, so that the answer need not be believed: what it prints is what `## Answer` in
`runs/NAME/report.md` shows. Two things are in no row: the margin, or how it is made, which is in plan.json, and the
loss of the untouched base, which is in facts.json. All formulas are in the docstrings of analysis/stats/statistics.py,
looks.py, sizes.py and rank_equivalents.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ERROR, POWER, MOST_SEEDS = 0.05, 0.8, 1000
MARGIN, LEAST_MARGIN = 0.01, 0.0005
PLAIN, NULLS = ("baseline", "plain"), ("random", "layer_lr")


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


class Contrast:
    """A weighted sum of ways to train, by seed; as a difference to plain LoRA one below 0 is an advantage.

    Args:
        arms: Runs of each way to train, an indexed frame each; the seeds that all of them have count.
        weights: One for each, as 1 and -1 for a difference.
        comparisons: So many intervals share the allowed error.
        error: What they may err together.
    """

    def __init__(self, arms, weights, comparisons=1, error=ERROR):
        losses = pd.concat([arm.test_loss for arm in arms], axis=1, join="inner").dropna()
        self.differences, self.seeds = losses.to_numpy() @ weights, len(losses)
        self.mean = self.differences.mean() if self.seeds else np.nan
        self.quantile = 1 - error / comparisons / 2
        self.seed_variance = self.differences.var(ddof=1) if self.seeds > 1 else np.nan
        self.text_shared = self.text_by_seed = 0.0
        self.text_freedom = 1.0
        documents = [arm.test_documents[losses.index] for arm in arms]
        if self.seeds > 1 and all(of_arm.notna().all() for of_arm in documents):
            self._documents(np.array([of_arm.tolist() for of_arm in documents]), np.array(weights))

    def _documents(self, by_arm, weights):
        """Take note of the documents: an array of (arms, seeds, documents, 2), summed losses and tokens."""
        tokens, by_document = by_arm[0, 0, :, 1], np.tensordot(weights, by_arm[..., 0], 1)
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
        """Confidence interval of the mean difference; those of all comparisons hold together."""
        half = self.half_width(self.quantile, self.seeds) if self.seeds > 1 else np.nan
        return self.mean - half, self.mean + half


def percent(difference):
    """A difference in nats as a share of perplexity, with two significant digits."""
    value = -100 * np.expm1(difference)
    return f"{value:.0f} %" if abs(value) >= 10 else f"{value:.2g} %"


def read(folder):
    """The confirmation runs and those of other sizes of plain LoRA, with a label for each way to train, by seed."""
    rows = pd.DataFrame([json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()])
    rows = rows.reindex(columns=[*rows.columns, *{"test_documents", "budget_share"} - {*rows.columns}])
    rows = rows.drop_duplicates("trial_id", keep="last")
    rows = rows[rows.phase.isin(["confirm", "sizes"]) & ~rows.strategy.isin(["shuffled", "inverted", "frozen"])]
    nested = [(config or {}).get(name) or {} for config, name in zip(rows.config, rows.strategy, strict=True)]
    share = pd.Series([params.get("budget_share") for params in nested], rows.index, dtype=float)
    share = share.fillna(rows.budget_share.astype(float)).fillna(1.0)
    of_budget = share.map(" at {:.2g} of the budget".format).where(share != 1, "")
    of_size = share.map(" of {:.2g} times the budget".format).where(rows.phase == "sizes", of_budget)
    return rows.assign(label=rows.strategy + of_size, looks=[(config or {}).get("looks") for config in rows.config])


def error_of(runs):
    """What all intervals may err together: 5 %, or what is spent of them at a look (Lan and DeMets, after Pocock)."""
    if runs.looks.isna().all():
        return ERROR
    looks = [int(look) for look in runs.looks.dropna().iloc[0].split(",")]
    number = min(sum(look < runs.index.nunique() for look in looks), len(looks) - 1)
    spent = np.log1p((np.e - 1) * np.array([0, *looks]) / looks[-1])
    return ERROR * (spent[number + 1] - spent[number])


def reference_of(groups):
    """Of both kinds of plain LoRA the one of lower validation loss, if all runs of both ended well."""
    kinds = [name for name in PLAIN if name in groups]
    if any((groups[name].status != "finished").any() for name in kinds):
        return PLAIN[0]
    return min(kinds, key=lambda name: groups[name].final_eval_loss.mean())


class Sizes:
    """Plain LoRA at several sizes, smallest first; sizes are in doublings of the whole budget's parameters."""

    def __init__(self, rows, plain):
        whole, by_size = plain.trainable_parameters.max(), {0.0: plain}
        for _, runs in rows[rows.phase == "sizes"].groupby("label"):
            params = runs.trainable_parameters[runs.status == "finished"].max()
            if params > 0 and params != whole and not (runs.status == "diverged").any():
                by_size[np.log2(params / whole)] = runs
        self.sizes, self.arms = zip(*sorted(by_size.items(), key=lambda item: item[0]), strict=True)
        self.budget, distance = self.sizes.index(0), self.sizes[-1] - self.sizes[0]
        if distance:
            self.gain = Contrast([self.arms[0], self.arms[-1]], [1 / distance, -1 / distance])
            self.below = Contrast([self.arms[0], plain], [1, -1])
            self.beyond = Contrast([plain, self.arms[-1]], [1, -1])

    @property
    def are_there(self):
        """Whether another size than the budget's was trained, from two seeds at least."""
        return len(self.sizes) > 1 and self.gain.seeds > 1

    def margin(self, share):
        """A share of what a doubling gains for certain on the validation split, .0005 or a standard error at least."""
        losses = [arm.assign(test_loss=arm.final_eval_loss, test_documents=None) for arm in self.arms]
        apart = Contrast([losses[0], losses[-1]], [1, -1])
        low = apart.interval[0] / (self.sizes[-1] - self.sizes[0])
        return max(share * low, LEAST_MARGIN, np.sqrt(apart.seed_variance / apart.seeds))

    def show(self, margin):
        """Print what doubling gains, and whether it stops."""
        low, high = self.gain.interval
        print(f"a doubling gains {self.gain.mean:.4f}, {low:.4f} to {high:.4f}, {self.gain.seeds} seeds")
        if self.below.seeds > 1 and self.below.interval[1] < margin:
            print(f"more is worth nothing: {2 ** self.sizes[0]:.2g} times are enough")
        if self.beyond.seeds > 1 and self.beyond.interval[1] < margin:
            print(f"{2 ** self.sizes[-1]:.2g} times gain nothing that matters")

    def worth(self, runs, comparisons, error, at_budget):
        """Plain LoRA of how many times the parameters has the same loss, and from where to where that may lie."""
        arms = [*self.arms, runs]

        def ends(weights):
            vector = [weights.get(number, 0.0) for number in range(len(arms))]
            return Contrast(arms, vector, comparisons, error).interval

        def node(number):
            return at_budget.interval if number == self.budget else ends({len(self.arms): 1.0, number: -1.0})

        def line(number, size):
            share = (size - self.sizes[number]) / (self.sizes[number + 1] - self.sizes[number])
            return ends({len(self.arms): 1.0, number: share - 1.0, number + 1: -share})

        low, high = sorted((self._lowest(node, line), self._highest(node, line)))
        estimate = self._crossing(arms)
        times = None if estimate is None else 2 ** min(max(estimate, low), high)
        return times, *(2**end for end in (low, high))

    def _lowest(self, node, line):
        """The first size that is not shown to be too small."""
        last = len(self.sizes) - 1
        begin = self.budget if node(self.budget)[1] < 0 else 0
        number = next((number for number in range(begin, last + 1) if node(number)[1] >= 0), last + 1)
        if number in {0, last + 1}:
            return self.sizes[0 if number == 0 else -1]
        left, right = self.sizes[number - 1], self.sizes[number]
        beside = number - 2 if number > 1 else number
        if beside == last or line(beside, left)[1] >= 0:
            return left
        return halved(lambda size: line(beside, size)[1] < 0, left, right)

    def _highest(self, node, line):
        """The last size that is not shown to be too large."""
        last = len(self.sizes) - 1
        begin = self.budget if node(self.budget)[0] > 0 else last
        number = next((number for number in range(begin, -1, -1) if node(number)[0] <= 0), -1)
        if number in {-1, last}:
            return self.sizes[0 if number == -1 else -1]
        return halved(lambda size: line(number, size)[0] <= 0, self.sizes[number], self.sizes[number + 1])

    def _crossing(self, arms):
        """Where the straight lines through the mean losses, made to fall, have the strategy's; None beyond them."""
        means = pd.concat([arm.test_loss for arm in arms], axis=1, join="inner").dropna().mean().to_numpy()
        curve, wanted = falling(means[:-1]), means[-1]
        places = [
            min(max(left, 0.0), right) if above == below else left + (above - wanted) / (above - below) * (right - left)
            for left, right, above, below in zip(self.sizes, self.sizes[1:], curve, curve[1:], strict=False)
            if below <= wanted <= above
        ]
        return min(places, key=abs, default=None)


def falling(values):
    """The nearest values that do not rise: neighbours that do are pooled, the weight of each by their number."""
    blocks = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) < np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [np.mean(block) for block in blocks for _ in block]


def halved(holds, low, high):
    """The largest size up to which something holds that holds at the low end."""
    if holds(high):
        return high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def margin_of(plan, sizes):
    """The difference that does not matter: a number, or a share of a doubling."""
    given = plan["margin"]
    if not isinstance(given, str):
        return given
    return sizes.margin(float(given.removesuffix("doublings"))) if sizes.are_there else MARGIN


def show(name, runs):
    """Print a line of the table, and the ranks of the run of lowest validation loss."""
    loss, seconds, params = runs.test_loss.mean(), runs.training_time_seconds.mean(), runs.trainable_parameters.max()
    print(f"{name}: test loss {loss:.4f}, perplexity {np.exp(loss):.2f}, {params:,.0f} parameters, {seconds:,.1f} s")
    best = runs.loc[runs.final_eval_loss.idxmin()]
    print(f"{name}: ranks {min(best.ranks.values())} to {max(best.ranks.values())}, {best.trainable_parameters:,.0f}")


def main(folder):
    """Print the first screen's numbers."""
    rows = read(folder).set_index("seed")
    plan, facts = (json.loads((folder / name).read_text()) for name in ("plan.json", "facts.json"))
    if base := facts.get("base_losses", {}).get("test_loss"):
        print(f"the base, untouched: test loss {base:.4f}, perplexity {np.exp(base):.2f}, 0 parameters")
    print(f"plan: {plan['train_examples']:,} training examples, {facts.get('budget_params') or 0:,} parameters")
    groups = dict(list(rows[rows.phase == "confirm"].groupby("label", sort=False)))
    name_of_plain = reference_of(groups)
    groups = {name: runs[runs.status == "finished"] for name, runs in groups.items()}
    sizes = Sizes(rows, groups["baseline"])
    plain, margin = groups.pop(name_of_plain), margin_of(plan, sizes)
    if sizes.are_there:
        sizes.show(margin)
    compared = {name: Contrast([runs, plain], [1, -1], len(groups), error_of(runs)) for name, runs in groups.items()}
    for name, item in compared.items():
        low, high = item.interval
        print(f"{name}: {item.mean:+.4f}, {low:+.4f} to {high:+.4f}, {item.seeds} seeds")
        print(f"{name}: perplexity lower by {percent(item.mean)}, {percent(high)} to {percent(low)}")
    winners = [name for name, item in compared.items() if item.interval[1] < 0 and item.interval[0] <= -margin]
    winners = [name for name in winners if groups[name].strategy.iloc[0] not in NULLS]
    used = min(winners, key=lambda name: groups[name].final_eval_loss.mean()) if winners else None
    nearest = used or min(compared, key=lambda name: compared[name].mean)
    show("plain LoRA", plain)
    show(nearest, groups[nearest])
    print(f"use: {used or 'plain LoRA'}; {len(compared)} intervals hold together 95 times in 100")
    if used and sizes.are_there and not sizes.below.interval[1] < margin:
        error, all_matrices = error_of(groups[used]), sizes.arms[sizes.budget]
        at_budget = Contrast([groups[used], all_matrices], [1, -1], len(compared), error)
        times, low, high = sizes.worth(groups[used], len(compared), error, at_budget)
        print(f"{used}: worth {'?' if times is None else f'{times:.2g}'} times the parameters, {low:.2g} to {high:.2g}")
    asked = [item for name, item in compared.items() if name not in PLAIN] or list(compared.values())
    visible = max(item.visible(item.seeds) for item in asked)
    needed = [item.seeds_to_see(margin) for item in asked]
    print(
        f"seen: {percent(-visible)}, {POWER * 10:.0f} times in 10; to see {percent(-margin)}: "
        f"{'no number of seeds' if None in needed else max(needed)}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
