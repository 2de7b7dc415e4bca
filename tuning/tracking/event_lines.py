"""What a line of an outbox may be, whoever has written it."""

from collections.abc import Mapping
from typing import Any

from analysis.results.confinement import NAME
from analysis.results.strict_json import is_count

KINDS: dict[str, dict[str, type]] = {
    "target": {"uri": str, "search": str},
    "start": {"name": str, "params": dict, "tags": dict, "time_ms": int},
    "metrics": {"values": dict, "step": int, "time_ms": int},
    "artifact": {"path": str},
    "table": {"path": str},
    "dataset": {"name": str, "digest": str},
    "end": {"status": str, "tags": dict, "time_ms": int},
    "reopen": {},
}
"""Kind -> field that its events have -> what it is. Of a kind that is not there, nothing is known."""


def check_event(event: Mapping[str, Any]) -> None:
    """Refuse what is no event.

    Raises:
        ValueError: In a few words.
    """
    kind, run = event.get("kind"), event.get("run")
    if not isinstance(kind, str) or not isinstance(run, str):
        raise ValueError("no event")
    if kind != "target" and not NAME.fullmatch(run):
        raise ValueError(f"no event, since {run[:40]!r} is no name of a run")
    for name, its_type in KINDS.get(kind, {}).items():
        value = event.get(name)
        if not isinstance(value, its_type) or (its_type is int and not is_count(value)):
            raise ValueError(f"no event, since {name} of {kind} must be {its_type.__name__}")
    if not all(isinstance(value, str) for value in event.get("tags", {}).values()):
        raise ValueError("no event, since a tag is no text")
