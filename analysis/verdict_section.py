"""The report's section on the verdict: its words and its table."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tabulate import tabulate

from analysis import ranking
from analysis.rows import ResultRow
from analysis.statistics import spread
from analysis.verdicts import PLAIN, Verdict, confirmed_runs, controls, most_params, paired, verdicts

FROZEN = "frozen"
HEADERS = ("strategy", "verdict", "test loss", "difference", "interval", "over seeds alone", "seeds", "parameters")


def section(rows: Sequence[ResultRow], margin: float, looks: int = 1) -> list[str]:
    """Return the report's section.

    Args:
        rows: Of a search, all phases.
        margin: As for ``verdicts``.
        looks: How often the search has been judged, this time included.
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
    return [*lines, *_control_lines(rows, margin)]


def headline(found: Sequence[Verdict]) -> list[str]:
    """Return the answer in words, a line per strategy."""
    return [f"- **{item.strategy}: {item.answer}.** {_because(item)}" for item in found]


def span(interval: tuple[float, float] | None) -> str:
    """Return an interval as tables show it; empty if it is unknown."""
    return "" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


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
    if item.answer in {"win", "loss"} and abs(item.pairs.mean) < item.margin:
        return f"{text} That is less than the {item.margin:g} that was said to matter."
    if item.answer != "cannot tell":
        return text
    if item.needed is None and replace(item.pairs, documents=()).seeds_needed(item.margin) is not None:
        return f"{text} No number of seeds would tell: texts differ too much, and more of them are needed."
    if item.needed is None:
        return f"{text} Not even 1,000 seeds would tell, if their spread stays as it is."
    return f"{text} About {item.needed} seeds would tell."


def _table(rows: Sequence[ResultRow], found: Sequence[Verdict]) -> str:
    plain = confirmed_runs(rows)[PLAIN]
    losses = tuple(row.test_loss for row in plain if row.test_loss is not None)
    body = [[PLAIN, "reference", _loss(losses), "", "", "", len(losses), f"{most_params(plain):,}"]]
    for item in found:
        mean = "" if item.pairs.mean is None else f"{item.pairs.mean:+.4f}"
        intervals = (span(item.pairs.interval), span(item.pairs.bootstrap()))
        body.append(
            [item.strategy, item.answer, _loss(item.losses), mean, *intervals, item.pairs.seeds, f"{item.params:,}"]
        )
    for name, (original, _) in controls(rows).items():
        runs = confirmed_runs(rows)[name]
        own = tuple(row.test_loss for row in runs if row.test_loss is not None)
        pairs = paired(runs, plain, len(found) or 1)
        mean = "" if pairs.mean is None else f"{pairs.mean:+.4f}"
        intervals = (span(pairs.interval), span(pairs.bootstrap()))
        body.append(
            [name, f"control of {original}", _loss(own), mean, *intervals, pairs.seeds, f"{most_params(runs):,}"]
        )
    return tabulate(body, headers=HEADERS, tablefmt="pipe", disable_numparse=True)


def _legend(rows: Sequence[ResultRow], found: Sequence[Verdict], margin: float) -> list[str]:
    searched = Counter(row.strategy for row in rows if row.phase == "search")
    seeds = sorted({row.seed for row in rows if row.phase == "confirm" and row.seed is not None})
    params = [item.params for item in found] + [most_params(confirmed_runs(rows)[PLAIN])]
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
        f"- **Budget:** {min(params):,} to {max(params):,} trainable parameters.",
        f"- **Interval:** of the mean paired difference, Student's t; {together} right 95 % of the time, "
        f"{level:.4g} % each. {_texts(found)} It decides. *Over seeds alone* is the bootstrap's percentile interval at "
        f"the same level, which is too narrow for few seeds and knows these texts only; it is printed for comparison.",
        f"- **Words:** *win*, *loss*: the interval excludes 0. *Tie*: it lies within ±{margin:g}, the difference that "
        f"does not matter. *Non-inferior with fewer parameters*: it ends below +{margin:g}, with at least 5 % fewer.",
        "",
    ]


def _control_lines(rows: Sequence[ResultRow], margin: float) -> list[str]:
    confirmed, lines = confirmed_runs(rows), []
    for name, (original, pairs) in controls(rows).items():
        diverged = sum(row.status == "diverged" for row in (*confirmed[name], *confirmed.get(original, ())))
        if diverged:
            said = f"nothing can be said, {diverged} of the runs compared diverged"
        elif pairs.interval is None:
            said = "nothing can be said about it"
        else:
            kind = confirmed[name][0].strategy
            said = (_frozen if kind == FROZEN else _misplaced)(kind, pairs.interval, margin)
        lines.append(f"- **{original} against {name}:** {said} ({span(pairs.interval)}, {pairs.seeds} seeds).")
    return ["### Controls", "", *lines, ""] if lines else []


def _said(interval: tuple[float, float], margin: float, better: str, worse: str, same: str, unknown: str) -> str:
    """Choose what an interval of original minus control says."""
    if interval[1] < 0:
        return better
    if interval[0] > 0:
        return worse
    return same if max(map(abs, interval)) <= margin else unknown


def _misplaced(name: str, interval: tuple[float, float], margin: float) -> str:
    """Say what the places of ranks are worth."""
    return _said(
        interval, margin,
        f"its ranks are better where they are than {name}: the places matter",
        f"its ranks are worse where they are than {name}",
        f"the places of its ranks carry no information: {name} is as good",
        f"it does not beat {name}: these seeds show no information in the places of its ranks, nor rule it out",
    )  # fmt: skip


def _frozen(name: str, interval: tuple[float, float], margin: float) -> str:
    """Say what the ranks alone are worth that were found while training."""
    given = "the ranks that its best trial ended with, given to plain LoRA from the start,"
    return _said(
        interval, margin,
        f"{given} are worse: how it trains matters",
        f"{given} are better: its ranks are worth more than how it trains",
        f"{given} are as good",
        f"these seeds cannot tell {given} from it",
    )  # fmt: skip


def _texts(found: Sequence[Verdict]) -> str:
    """Say what other texts could change."""
    counts = [len(item.pairs.documents) for item in found if item.pairs.documents]
    if not counts:
        return "It is that of other seeds on these texts: the rows do not have the losses of single documents."
    return f"It is that of other seeds and other texts: the {max(counts)} documents of the test split differ, too."


def _loss(losses: Sequence[float]) -> str:
    if not losses:
        return ""
    deviation = spread(losses)
    mean = f"{sum(losses) / len(losses):.4f}"
    return mean if deviation is None else f"{mean} ± {deviation:.4f}"
