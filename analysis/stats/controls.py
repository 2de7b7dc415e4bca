"""Controls: the effect of where an allocation puts its ranks, and of how it trains, each by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.results.markup import inline
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Status
from analysis.stats.looks import levels
from analysis.stats.statistics import Paired, judge, span
from analysis.stats.verdicts import label, paired

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
        name: The control's kind and the strategy that it is a control of, such as ``shuffled composite``.
        original: Label of what it is a control of.
        kind: ``shuffled``, ``inverted`` or ``frozen``.
        pairs: The test loss of the original minus the control's, by seed.
        runs: Confirmation runs of the control.
        diverged: Number of runs of either that diverged.
    """

    name: str
    original: str
    kind: str
    pairs: Paired
    runs: Sequence[ResultRow]
    diverged: int


def controls(confirmed: Mapping[str, Sequence[ResultRow]]) -> list[Control]:
    """Return all controls that were run, each beside what it is a control of; all intervals hold together.

    Args:
        confirmed: Label -> its confirmation runs.
    """
    names = [name for name, runs in confirmed.items() if runs[0].control_of is not None]
    return [_control(name, confirmed, len(names)) for name in names]


def section(judged_controls: Sequence[Control], margin: float) -> list[str]:
    """Return the report's lines on controls; empty without any."""
    if not judged_controls:
        return []
    together = f"; the {len(judged_controls)} together right 95 % of the time" if len(judged_controls) > 1 else ""
    each = levels([control.pairs for control in judged_controls])
    return [
        "### Controls", "",
        *(f"- **{inline(control.original)} against {inline(control.name)}:** {_answer_in_words(control, margin)}."
          for control in judged_controls), "",
        f"Ranks dealt to other matrices are trained at the learning rate of those that they are a control of, which "
        f"was not chosen for them. Each interval is at {each}{together}.", "",
    ]  # fmt: skip


def _control(name: str, confirmed: Mapping[str, Sequence[ResultRow]], count: int) -> Control:
    runs = confirmed[name]
    strategy = runs[0].control_of or ""
    original = label(runs[0], strategy)
    if strategy == FROZEN:  # a control that has a control itself
        frozen_labels = (
            other_label for other_label, other_runs in confirmed.items() if other_runs[0].strategy == FROZEN
        )
        original = next(
            (name for name in frozen_labels if label(confirmed[name][0], "") == label(runs[0], "")), original
        )
    original_runs = confirmed.get(original, ())
    diverged = sum(row.status == Status.DIVERGED for row in (*runs, *original_runs))
    return Control(name, original, runs[0].strategy, paired(original_runs, runs, count), runs, diverged)


def _answer_in_words(control: Control, margin: float) -> str:
    if control.diverged:
        return f"nothing can be said, {control.diverged} of the runs compared diverged"
    if control.pairs.interval is None:
        return f"nothing can be said yet, with {control.pairs.seeds} seed(s) of both"
    text = (TRAINING if control.kind == FROZEN else PLACES)[judge(control.pairs, margin)].format(
        kind=inline(control.kind)
    )
    return f"{text} ({span(control.pairs.interval)}, {control.pairs.seeds} seeds)"
