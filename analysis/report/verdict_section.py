"""The report's section on the verdict: its words and its table."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tabulate import tabulate

from analysis.results.rows import ResultRow
from analysis.stats import controls, ranking
from analysis.stats.statistics import span, spread
from analysis.stats.verdicts import PLAIN, Verdict, beside_plain, confirmed_runs, paired, params_of, verdicts

HEADERS = ("strategy", "verdict", "test loss", "difference", "interval", "over seeds alone", "seeds", "parameters")


def section(rows: Sequence[ResultRow], margin: float, looks: int = 1) -> list[str]:
    """Return the report's section.

    Args:
        rows: Of a search, all phases.
        margin: As for ``verdicts``.
        looks: How many plans of the search were judged on its test split, this one included.
    """
    lines = ["## Verdict", ""]
    if not any(row.phase == "confirm" for row in rows):
        return [*lines, "None: there are no confirmation runs, and one run per configuration gives no verdict.", ""]
    found = verdicts(rows, margin)
    if not confirmed_runs(rows).get(PLAIN):
        return [*lines, "None: plain LoRA is not among the confirmed, so there is nothing to compare with.", ""]
    lines += [*headline(found), "", _table(rows, found), "", *_legend(rows, found, margin)]
    if looks > 1:
        lines[-1:] = [
            f"- **Looks:** this search was judged {looks} times on the same test split, each time with 5 % to err; who "
            f"goes on until something wins is told so too often.", "",
        ]  # fmt: skip
    return [*lines, *controls.section(rows, margin)]


def headline(found: Sequence[Verdict]) -> list[str]:
    """Return the answer in words, a line per strategy."""
    return [f"- **{item.strategy}: {item.answer}.** {_because(item)}{_without(item)}" for item in found]


def alone(run: ResultRow, rows: Sequence[ResultRow]) -> str | None:
    """Say how one confirmation run does against plain LoRA's of the same seed; None where that is not known."""
    if (difference := beside_plain(run, rows)) is None:
        return None
    seed = "against plain LoRA of the same seed; the verdict is on the mean of all seeds"
    return f"{difference:+.4f} nats per token {seed}"


def _without(item: Verdict) -> str:
    return f" {item.failed} of the runs compared failed, and their seeds are left out." if item.failed else ""


def _because(item: Verdict) -> str:
    if item.diverged:
        return f"{item.diverged} of the runs compared diverged."
    if len(item.pairs.documents) == 1:
        return "The test split is of one document, which says nothing about others."
    if item.pairs.interval is None or item.pairs.mean is None:
        return f"{item.pairs.seeds} seed(s) with a result on both sides; it takes at least two."
    low, high = item.pairs.interval
    change = math.expm1(item.pairs.mean)
    text = (
        f"Test loss {item.pairs.mean:+.4f} against plain LoRA (interval {low:+.4f} to {high:+.4f}, "
        f"{item.pairs.seeds} seeds), which is {change:+.2%} in perplexity."
    )
    if not item.pairs.documents:
        text += " It holds for these test texts alone: the runs do not know the losses of single documents."
    if item.answer in {"win", "loss"} and abs(item.pairs.mean) < item.margin:
        return f"{text} That is less than the {item.margin:g} that was said to matter."
    if item.answer != "cannot tell":
        return text
    if item.needed is None and replace(item.pairs, documents=()).seeds_needed(item.margin, item.fewer) is not None:
        return f"{text} No number of seeds would tell: texts differ too much, and more of them are needed."
    if item.needed is None:
        return f"{text} Not even 1,000 seeds would tell, if their spread stays as it is."
    return f"{text} About {item.needed} seeds would tell."


def _table(rows: Sequence[ResultRow], found: Sequence[Verdict]) -> str:
    plain = confirmed_runs(rows)[PLAIN]
    losses = tuple(row.test_loss for row in plain if row.test_loss is not None)
    body = [[PLAIN, "reference", _loss(losses), "", "", "", len(losses), _size(params_of(plain))]]
    for item in found:
        mean = "" if item.pairs.mean is None else f"{item.pairs.mean:+.4f}"
        intervals = (span(item.pairs.interval), span(item.pairs.bootstrap()))
        body.append(
            [item.strategy, item.answer, _loss(item.losses), mean, *intervals, item.pairs.seeds, _size(item.params)]
        )
    for control in controls.controls(rows):
        own = tuple(row.test_loss for row in control.runs if row.test_loss is not None)
        pairs, size = paired(control.runs, plain, len(found) or 1), _size(params_of(control.runs))
        mean = "" if pairs.mean is None else f"{pairs.mean:+.4f}"
        intervals = (span(pairs.interval), span(pairs.bootstrap()))
        body.append([control.name, f"control of {control.original}", _loss(own), mean, *intervals, pairs.seeds, size])
    return tabulate(body, headers=HEADERS, tablefmt="pipe", disable_numparse=True)


def _legend(rows: Sequence[ResultRow], found: Sequence[Verdict], margin: float) -> list[str]:
    searched = Counter(row.strategy for row in rows if row.phase == "search")
    confirmed = (row for row in rows if row.phase == "confirm" and row.status != "failed")
    seeds = sorted({row.seed for row in confirmed if row.seed is not None})
    sizes = [*(item.params for item in found), params_of(confirmed_runs(rows)[PLAIN])]
    known = [size for size in sizes if size is not None]
    full = Counter(row.strategy for row in rows if row.phase == "search" and row.status == "finished")
    trials = ", ".join(f"{name} {count} ({full[name]} in full)" for name, count in searched.items())
    edge = ranking.at_the_edge(row for row in rows if row.phase == "search")
    reservation = f" Of {', '.join(edge)} the best rate is at the edge of those tried: a wider range may be better."
    level = 100 * found[0].pairs.level if found else 95.0
    together = f"the {len(found)} together" if len(found) > 1 else "it"
    return [
        f"- **Runs:** the best configuration of every strategy, trained again in full from seeds "
        f"{', '.join(map(str, seeds))}, the same seeds, data order and batches for all; losses are those of the test "
        f"split, in nats per token, mean ± standard deviation. Nothing in the search has seen that split.",
        f"- **Search before:** trials {trials}; every strategy searched a learning rate of its own."
        f"{reservation if edge else ''}",
        *([f"- **Budget:** {min(known):,} to {max(known):,} trainable parameters at the end."] if known else []),
        f"- **Interval:** of the mean paired difference, Student's t; {together} right 95 % of the time, "
        f"{level:.4g} % each. {_texts(found)} It decides. *Over seeds alone* is the bootstrap's percentile interval at "
        f"the same level, which is too narrow for few seeds and knows these texts only; it is printed for comparison.",
        f"- **Words:** *win*, *loss*: the interval excludes 0. *Tie*: it lies within ±{margin:g}, the difference that "
        f"does not matter. *Non-inferior with fewer parameters*: it ends below +{margin:g}, with at least 5 % fewer.",
        "",
    ]


def _texts(found: Sequence[Verdict]) -> str:
    """Say what other texts could change."""
    counts = [len(item.pairs.documents) for item in found if item.pairs.documents]
    if not counts:
        return "It is for other seeds, not for other texts."
    return f"It is for other seeds and other test texts: the {max(counts)} documents of the split differ, too."


def _loss(losses: Sequence[float]) -> str:
    if not losses:
        return ""
    deviation = spread(losses)
    mean = f"{sum(losses) / len(losses):.4f}"
    return mean if deviation is None else f"{mean} ± {deviation:.4f}"


def _size(params: int | None) -> str:
    return "" if params is None else f"{params:,}"
