"""The verdict: every strategy's confirmation runs against plain LoRA's, seed by seed, on the test split."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from analysis import ranking
from analysis.rows import ResultRow
from analysis.statistics import Answer, Paired, judge, spread

PLAIN = "baseline"
FROZEN = "frozen"
HEADERS = ("strategy", "verdict", "test loss", "difference", "95 % interval", "bootstrap", "seeds", "parameters")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What confirmation runs say about a strategy.

    Args:
        strategy: Whose.
        answer: One of five.
        pairs: Its test loss minus plain LoRA's, a value per seed that both finished.
        losses: Its test losses.
        params: Its trainable parameters.
        diverged: Runs without a loss.
        needed: Seeds that would be enough to tell, if that is known.
        margin: Difference that does not matter.
    """

    strategy: str
    answer: Answer
    pairs: Paired
    losses: tuple[float, ...]
    params: int
    diverged: int
    needed: int | None
    margin: float


def verdicts(rows: Sequence[ResultRow], margin: float) -> list[Verdict]:
    """Judge every strategy that was confirmed, controls apart, against plain LoRA; lowest mean difference first.

    A strategy of which a run diverged gets no verdict: leaving that run out would flatter it.

    Args:
        rows: Of a search, all phases.
        margin: Difference in test loss that does not matter, in nats per token.
    """
    confirmed = _by_strategy(rows)
    plain = confirmed.get(PLAIN, [])
    rivals = [name for name, runs in confirmed.items() if name != PLAIN and control_of(runs[0]) is None]
    found = [_judged(name, confirmed[name], plain, len(rivals), margin) for name in rivals]
    return sorted(found, key=lambda item: math.inf if item.pairs.mean is None else item.pairs.mean)


def controls(rows: Sequence[ResultRow]) -> dict[str, tuple[str, Paired]]:
    """Return control -> (the strategy it is a control of, that strategy's test loss minus the control's by seed)."""
    confirmed = _by_strategy(rows)
    found = {}
    for name, runs in confirmed.items():
        original = control_of(runs[0])
        if original is not None:
            found[name] = (original, _paired(confirmed.get(original, []), runs, 1))
    return found


def recommended(rows: Sequence[ResultRow], margin: float) -> ResultRow | None:
    """Return the run to use: of the strategy with the best win, else of plain LoRA, the lowest evaluation loss.

    Without confirmation runs it is the best trial of the search.
    """
    searched = [row for row in rows if row.phase == "search"]
    wins = [item.strategy for item in verdicts(rows, margin) if item.answer == "win"]
    runs = _by_strategy(rows).get(wins[0] if wins else PLAIN, [])
    return ranking.best_run(runs) or ranking.best_run(searched)


def control_of(row: ResultRow) -> str | None:
    """Return the strategy that a run is a control of, if it is one."""
    own = row.config.get(row.strategy)
    return own.get("of") if isinstance(own, dict) else None


def section(rows: Sequence[ResultRow], margin: float) -> list[str]:
    """Return the report's section."""
    lines = ["## Verdict", ""]
    if not any(row.phase == "confirm" for row in rows):
        return [*lines, "None: there are no confirmation runs, and one run per configuration gives no verdict.", ""]
    found = verdicts(rows, margin)
    if not _by_strategy(rows).get(PLAIN):
        return [*lines, "None: plain LoRA is not among the confirmed, so there is nothing to compare with.", ""]
    lines += [*headline(found), "", _table(rows, found), "", *_legend(rows, found, margin)]
    return [*lines, *_control_lines(rows, margin)]


def headline(found: Sequence[Verdict]) -> list[str]:
    """Return the answer in words, a line per strategy."""
    return [f"- **{item.strategy}: {item.answer}.** {_because(item)}" for item in found]


def _judged(name: str, runs: Sequence[ResultRow], plain: Sequence[ResultRow], rivals: int, margin: float) -> Verdict:
    pairs = _paired(runs, plain, rivals)
    params, plain_params = _params(runs), _params(plain)
    diverged = sum(row.status == "diverged" for row in (*runs, *plain))
    answer: Answer = "cannot tell" if diverged else judge(pairs, margin, params, plain_params)
    needed = pairs.seeds_needed(margin) if answer == "cannot tell" and not diverged else None
    losses = tuple(row.test_loss for row in runs if row.test_loss is not None)
    return Verdict(name, answer, pairs, losses, params, diverged, needed, margin)


def _paired(runs: Sequence[ResultRow], others: Sequence[ResultRow], comparisons: int) -> Paired:
    mine, theirs = ({row.seed: row.test_loss for row in part if row.test_loss is not None} for part in (runs, others))
    return Paired(tuple(mine[seed] - theirs[seed] for seed in mine if seed in theirs), comparisons)


def _by_strategy(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    found: dict[str, list[ResultRow]] = {}
    for row in rows:
        if row.phase == "confirm":
            found.setdefault(row.strategy, []).append(row)
    return found


def _params(runs: Sequence[ResultRow]) -> int:
    return max((row.trainable_parameters or 0 for row in runs), default=0)


def _because(item: Verdict) -> str:
    if item.diverged:
        return f"{item.diverged} of the runs compared diverged."
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
    if item.needed is None:
        return f"{text} Not even 1,000 seeds would tell, if their spread stays as it is."
    return f"{text} About {item.needed} seeds would tell."


def _table(rows: Sequence[ResultRow], found: Sequence[Verdict]) -> str:
    plain = _by_strategy(rows)[PLAIN]
    losses = tuple(row.test_loss for row in plain if row.test_loss is not None)
    body = [[PLAIN, "reference", _loss(losses), "", "", "", len(losses), f"{_params(plain):,}"]]
    for item in found:
        mean = "" if item.pairs.mean is None else f"{item.pairs.mean:+.4f}"
        intervals = (span(item.pairs.interval), span(item.pairs.bootstrap()))
        body.append(
            [item.strategy, item.answer, _loss(item.losses), mean, *intervals, item.pairs.seeds, f"{item.params:,}"]
        )
    for name, (original, pairs) in controls(rows).items():
        runs = _by_strategy(rows)[name]
        own = tuple(row.test_loss for row in runs if row.test_loss is not None)
        body.append([name, f"control of {original}", _loss(own), "", "", "", pairs.seeds, f"{_params(runs):,}"])
    return tabulate(body, headers=HEADERS, tablefmt="pipe", disable_numparse=True)


def _legend(rows: Sequence[ResultRow], found: Sequence[Verdict], margin: float) -> list[str]:
    searched = Counter(row.strategy for row in rows if row.phase == "search")
    seeds = sorted({row.seed for row in rows if row.phase == "confirm" and row.seed is not None})
    params = [item.params for item in found] + [_params(_by_strategy(rows)[PLAIN])]
    full = Counter(row.strategy for row in rows if row.phase == "search" and row.status == "finished")
    trials = ", ".join(f"{name} {count} ({full[name]} in full)" for name, count in searched.items())
    edge = ranking.at_the_edge(row for row in rows if row.phase == "search")
    reservation = f" Of {', '.join(edge)} the best rate is at the edge of those tried: a wider range may be better."
    together = f"the {len(found)} together" if len(found) > 1 else "it"
    return [
        f"- **Runs:** the best configuration of every strategy, trained again in full from seeds "
        f"{', '.join(map(str, seeds))}, the same seeds, data order and batches for all; losses are those of the test "
        f"split, in nats per token, mean ± standard deviation. Nothing in the search has seen that split.",
        f"- **Search before:** trials {trials}; every strategy searched a learning rate of its own."
        f"{reservation if edge else ''}",
        f"- **Budget:** {min(params):,} to {max(params):,} trainable parameters.",
        f"- **Interval:** of the mean paired difference, Student's t; {together} right 95 % of the time. It decides. "
        f"The bootstrap's percentile interval is too narrow for few seeds and is printed for comparison.",
        f"- **Words:** *win*, *loss*: the interval excludes 0. *Tie*: it lies within ±{margin:g}, the difference that "
        f"does not matter. *Non-inferior with fewer parameters*: it ends below +{margin:g}, with at least 5 % fewer.",
        "",
    ]


def _control_lines(rows: Sequence[ResultRow], margin: float) -> list[str]:
    confirmed, lines = _by_strategy(rows), []
    for name, (original, pairs) in controls(rows).items():
        diverged = sum(row.status == "diverged" for row in (*confirmed[name], *confirmed.get(original, ())))
        if diverged:
            said = f"nothing can be said, {diverged} of the runs compared diverged"
        elif pairs.interval is None:
            said = "nothing can be said about it"
        else:
            said = (_frozen if name == FROZEN else _misplaced)(name, pairs.interval, margin)
        lines.append(f"- **{original} against itself {name}:** {said} ({span(pairs.interval)}, {pairs.seeds} seeds).")
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


def _loss(losses: Sequence[float]) -> str:
    if not losses:
        return ""
    deviation = spread(losses)
    mean = f"{sum(losses) / len(losses):.4f}"
    return mean if deviation is None else f"{mean} ± {deviation:.4f}"


def span(interval: tuple[float, float] | None) -> str:
    """Return an interval as tables show it; empty if it is unknown."""
    return "" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
