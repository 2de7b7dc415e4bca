"""What of each MLflow run is spooled already, so that a resumed search says nothing twice."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tuning.tracking.outbox import TARGET, Event

PHASES = ("start", "end", "reopen")
INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Life:
    """What is spooled of a run: its last change of phase, the steps it reported, and the rest."""

    phase: Event | None = None
    steps: set[int] = field(default_factory=set)
    rest: set[str] = field(default_factory=set)


class Lives:
    """The runs of a spool, in the order in which they began.

    Args:
        events: What is spooled already.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.runs: dict[str, Life] = {}
        for event in events:
            if event["kind"] != TARGET:
                self.take(event)

    def take(self, event: Event) -> None:
        """Remember that an event is spooled."""
        life = self.runs.setdefault(event["run"], Life())
        if event["kind"] in PHASES:
            life.phase = event
        elif event["kind"] == "metrics":
            life.steps.add(event["step"])
        else:
            life.rest.add(_content(event))

    def news(self, event: Event) -> Event | None:
        """Return what an event adds to what is spooled: itself, that its run goes on, or nothing.

        A run goes on if it was interrupted, or is no trial. A trial that ended otherwise has nothing more to come.
        """
        life = self.runs.get(event["run"], Life())
        ended = life.phase is not None and life.phase["kind"] == "end"
        if event["kind"] == "start" and life.phase is not None:
            goes_on = ended and (life.phase["tags"].get("status") == INTERRUPTED or "kind" in event["tags"])
            return {"kind": "reopen", "run": event["run"]} if goes_on else None
        if event["kind"] == "end":
            return None if ended and _content(event) == _content(life.phase) else event
        if event["kind"] == "metrics":
            return None if event["step"] in life.steps else event
        return None if _content(event) in life.rest else event

    def open(self) -> Iterator[str]:
        """Yield the runs that have no end, the last that began first."""
        for run, life in reversed([*self.runs.items()]):
            if life.phase is None or life.phase["kind"] != "end":
                yield run

    def is_past(self, event: Event) -> bool:
        """Say whether a run has changed its phase again since."""
        phase = self.runs.get(event["run"], Life()).phase
        return event["kind"] in ("end", "reopen") and phase not in (None, event)


def _content(event: Event | None) -> str:
    """Return an event without its time."""
    return json.dumps({key: value for key, value in (event or {}).items() if key != "time_ms"}, sort_keys=True)
