"""Controls: what an allocation's places, and its way to train, are worth by themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.results.rows import ResultRow
from analysis.stats.statistics import Paired, judge, span
from analysis.stats.verdicts import confirmed_runs, control_of, label, paired

FROZEN = "frozen"
PLACES = {
    "win": "its ranks are better where they are than {kind}: the places matter",
    "loss": "its ranks are worse where they are than {kind}",
    "tie": "the places of its ranks carry no information: {kind} is as good",
    "cannot tell": "it does not beat {kind}: these seeds show no information in the places of its ranks, nor rule it "
    "out",
}
GIVEN = "the ranks that its best trial ended with, given to plain LoRA from the start at plain LoRA's learning rate,"
TRAINING = {
    "win": f"{GIVEN} are worse: how it trains, or its learning rate, matters",
    "loss": f"{GIVEN} are better: its ranks are worth more than how it trains",
    "tie": f"{GIVEN} are as good",
    "cannot tell": f"these seeds cannot tell {GIVEN} from it",
}


@dataclass(frozen=True, slots=True)
class Control:
    """A strategy beside its control.

    Args:
        name: Of the control: its kind and what it is a control of, such as ``shuffled composite``.
        original: What it is a control of.
        kind: ``shuffled``, ``inverted`` or ``frozen``.
        pairs: The test loss of the original minus the control's, by seed.
        runs: Of the control.
        diverged: Runs of either that diverged.
    """

    name: str
    original: str
    kind: str
    pairs: Paired
    runs: Sequence[ResultRow]
    diverged: int


def controls(rows: Sequence[ResultRow]) -> list[Control]:
    """Return all controls that were run, each beside what it is a control of; all intervals hold together."""
    confirmed = confirmed_runs(rows)
    names = [name for name, runs in confirmed.items() if control_of(runs[0]) is not None]
    return [_control(name, confirmed, len(names)) for name in names]


def section(rows: Sequence[ResultRow], margin: float) -> list[str]:
    """Return what the report says of them; empty without any."""
    found = controls(rows)
    if not found:
        return []
    together = f"; the {len(found)} together right 95 % of the time" if len(found) > 1 else ""
    return [
        "### Controls", "",
        *(f"- **{item.original} against {item.name}:** {_said(item, margin)}." for item in found), "",
        f"Ranks dealt to other matrices are trained at the learning rate of those that they are a control of, which "
        f"was not chosen for them. Each interval is at {100 * found[0].pairs.level:.4g} %{together}.", "",
    ]  # fmt: skip


def _control(name: str, confirmed: Mapping[str, Sequence[ResultRow]], count: int) -> Control:
    runs = confirmed[name]
    of = control_of(runs[0]) or ""
    own = label(runs[0], of)
    if of == FROZEN:  # which has a control of its own
        frozen = (other for other, its in confirmed.items() if its[0].strategy == FROZEN)
        own = next((name for name in frozen if label(confirmed[name][0], "") == label(runs[0], "")), own)
    theirs = confirmed.get(own, ())
    diverged = sum(row.status == "diverged" for row in (*runs, *theirs))
    return Control(name, own, runs[0].strategy, paired(theirs, runs, count), runs, diverged)


def _said(item: Control, margin: float) -> str:
    if item.diverged:
        return f"nothing can be said, {item.diverged} of the runs compared diverged"
    if item.pairs.interval is None:
        return f"nothing can be said yet, with {item.pairs.seeds} seed(s) of both"
    words = (TRAINING if item.kind == FROZEN else PLACES)[judge(item.pairs, margin)].format(kind=item.kind)
    return f"{words} ({span(item.pairs.interval)}, {item.pairs.seeds} seeds)"
