"""What of each MLflow run is in the outbox already, so that a resumed search says nothing twice."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tuning.tracking.outbox import TARGET, Event

PHASES = ("start", "end", "reopen")
INTERRUPTED = "interrupted"


@dataclass(slots=True)
class RunState:
    """What is in the outbox of a run: its last change of phase, the metrics that each step reported, and the rest."""

    phase: Event | None = None
    steps: dict[int, set[str]] = field(default_factory=dict)
    rest: set[str] = field(default_factory=set)


class RunHistory:
    """The runs of an outbox, in the order in which they began.

    Args:
        events: What is in the outbox already.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.runs: dict[str, RunState] = {}
        for event in events:
            if event["kind"] != TARGET:
                self.take(event)

    def take(self, event: Event) -> None:
        """Remember that an event is in the outbox."""
        state = self.runs.setdefault(event["run"], RunState())
        if event["kind"] in PHASES:
            state.phase = event
        elif event["kind"] == "metrics":
            state.steps.setdefault(event["step"], set()).update(event["values"])
        else:
            state.rest.add(_content(event))

    def news(self, event: Event) -> Event | None:
        """Return what an event adds to what is in the outbox: itself, that its run goes on, or nothing.

        A run goes on if it was interrupted, or is no trial. A trial that ended otherwise has nothing more to come.
        """
        state = self.runs.get(event["run"], RunState())
        ended = state.phase is not None and state.phase["kind"] == "end"
        if event["kind"] == "start" and state.phase is not None:
            goes_on = ended and (state.phase["tags"].get("status") == INTERRUPTED or "kind" in event["tags"])
            return {"kind": "reopen", "run": event["run"]} if goes_on else None
        if event["kind"] == "end":
            return None if ended and _content(event) == _content(state.phase) else event
        if event["kind"] == "metrics":
            return None if event["values"].keys() <= state.steps.get(event["step"], set()) else event
        return None if _content(event) in state.rest else event

    def open(self) -> Iterator[str]:
        """Yield the runs that have no end, the last that began first."""
        for run, state in reversed([*self.runs.items()]):
            if state.phase is None or state.phase["kind"] != "end":
                yield run

    def is_past(self, event: Event) -> bool:
        """Return True if a run has changed its phase again since."""
        phase = self.runs.get(event["run"], RunState()).phase
        return event["kind"] in ("end", "reopen") and phase not in (None, event)


def _content(event: Event | None) -> str:
    """Return an event without its time."""
    return json.dumps({key: value for key, value in (event or {}).items() if key != "time_ms"}, sort_keys=True)
