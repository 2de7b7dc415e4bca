"""A file of events, how far they were carried, and which were refused; who carries them is no matter of it.

An event is carried at least once. Whoever applies it must therefore end up with the same if it comes twice.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from analysis.results import journal
from analysis.results.atomic_write import replace_text
from analysis.results.messages import masked, to_stderr
from analysis.results.strict_json import is_count
from tuning.tracking.event_lines import check_event

log = logging.getLogger(__name__)
OUTBOX, STATE, REFUSED, LOCK = "mlflow-outbox.jsonl", "mlflow-state.json", "mlflow-refused.jsonl", "mlflow-outbox.lock"
OLD_NAME = "mlflow-spool.jsonl"  # of the outbox, in folders of searches that began before 2026-11-28
TARGET = "target"
SEARCH = re.compile(r"[\w .+-]{1,200}")
"""What identifies a search: it is quoted in what MLflow is asked."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go.

    Args:
        uri: MLflow's tracking URI.
        artifacts: Where a local MLflow keeps artifacts; None for a server, which decides itself.
        search: What identifies the search there.
    """

    uri: str
    artifacts: str | None
    search: str


class UnknownTarget(ValueError):
    """No file of a run folder says where its events go."""


class Outbox:
    """The files of a run folder. Appending never waits for whoever reads.

    Args:
        run_dir: Where the files lie.
        target: Where events go; None takes what the files say. A search that has events keeps what identifies it.
        to: Takes that and returns where events go after all.
        warn: Takes a line on what is wrong with the files, or with MLflow.

    Raises:
        UnknownTarget: The files do not say where events go.
    """

    def __init__(
        self,
        run_dir: Path,
        target: Target | None = None,
        to: Callable[[Target], Target] = lambda target: target,
        warn: Callable[[str], None] = to_stderr,
    ) -> None:
        self.warn = warn
        self.run_dir, self.path, self.named = run_dir, path_in(run_dir), set[str]()
        state = self._state()
        stored = _target({"search": run_dir.name} | state)  # the folder's name was the search before it had its own
        said = self._last_target() or stored
        chosen = replace(target, search=said.search) if target and said else target or said
        if chosen is None:
            raise UnknownTarget(f"{run_dir}: neither {OUTBOX} nor {STATE} says where MLflow is")
        chosen = to(chosen)
        if chosen != said:
            self.append({"kind": TARGET, "run": "", **asdict(chosen)})
        self.target, self.done_bytes = chosen, state["done_bytes"] if chosen == stored else 0
        if chosen != stored:  # another server has nothing yet
            with suppress(Timeout), lock(run_dir):  # whoever carries events notes it with the next
                self.done(0)

    def append(self, event: Event) -> None:
        """Add an event.

        Raises:
            OSError: There is no room.
        """
        journal.append(self.path, event, sync=False)

    def events(self) -> Iterator[Event]:
        """Yield everything that ever was in it and can be read."""
        if self.path.is_file():
            yield from (event for event, _ in self._read(0, torn=True) if event)

    def waiting(self) -> Iterator[tuple[Event, int]]:
        """Yield each event that was not carried yet and what ``done`` takes once it is."""
        if not self._is_line_start(self.done_bytes):
            self._name(self.path, "is shorter than what was carried of it; all of it is carried again")
            self.done(0)
        for event, end in self._read(self.done_bytes):
            if event is None or event["kind"] == TARGET:
                self.done(end)
            else:
                yield event, end

    def done(self, end: int) -> None:
        """Remember how far events were carried."""
        self.done_bytes = end
        state = {"done_bytes": end, **asdict(self.target)}
        replace_text(self.run_dir / STATE, journal.sealed(state) + "\n")

    def remaining(self) -> int:
        """Return how many events wait."""
        return sum(event is not None and event["kind"] != TARGET for event, _ in self._read(self.done_bytes))

    def refuse(self, event: Event, reason: str) -> None:
        """Put an event aside."""
        journal.append(self.run_dir / REFUSED, {"event": event, "reason": reason}, sync=False)
        self._name(event["run"], f"MLflow refused {event['kind']} ({reason}); kept in {REFUSED} for a replay")

    def refused(self) -> list[Event]:
        """Return what was put aside."""
        path = self.run_dir / REFUSED
        if not path.is_file():
            return []
        lines, damage = journal.numbered(path)
        events = []
        for number, line in lines.items():
            try:
                check_event(line["event"])
                events.append(line["event"])
            except (LookupError, AttributeError, ValueError):
                damage = [*damage, (number, "no event")]
        for number, reason in damage:
            self._name(path, f"line {number}: {reason}; the others are carried")
        return events

    def keep_refused(self, events: list[tuple[Event, str]]) -> None:
        """Replace what was put aside."""
        kept = [journal.sealed({"event": event, "reason": reason}) + "\n" for event, reason in events]
        replace_text(self.run_dir / REFUSED, "".join(kept))

    def _read(self, start: int, torn: bool = False) -> Iterator[tuple[Event | None, int]]:
        """Yield events, None for a damaged one, with where each ends; a last line without an end only if ``torn``."""
        with self.path.open("rb") as file:
            file.seek(start)
            while (line := file.readline()) and (torn or line.endswith(b"\n")):
                start += len(line)
                yield self._event(line, start), start

    def _event(self, line: bytes, end: int) -> Event | None:
        try:
            event = journal.opened(line)
            if not line.endswith(b"\n"):
                raise ValueError("cut off at its end")
            check_event(event)
        except ValueError as error:
            if line.strip():
                number = self.path.read_bytes()[: end - 1].count(b"\n") + 1
                self._name(self.path, f"line {number}: {error}; the others are carried")
            return None
        return event

    def _state(self) -> dict[str, Any]:
        path = self.run_dir / STATE
        try:
            state = journal.opened(path.read_bytes())
            if not is_count(state.get("done_bytes")):
                raise ValueError("does not say how far events were carried")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            self._name(path, f"{error}; all events are carried again, which changes nothing that arrived")
            return {}
        return state

    def _last_target(self) -> Target | None:
        target = None
        for event in self.events():
            if event["kind"] == TARGET:
                target = _target(event) or target
        return target

    def _is_line_start(self, offset: int) -> bool:
        if offset == 0:
            return True
        if not 0 < offset <= self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(offset - 1)
            return file.read(1) == b"\n"

    def _name(self, culprit: Path | str, problem: str) -> None:
        """Say what is wrong, once."""
        line = f"{culprit}: {problem}"
        key = culprit if isinstance(culprit, str) else line
        if key not in self.named:
            self.named.add(key)
            self.warn(masked(line))
            log.warning("%s", line)


def path_in(run_dir: Path) -> Path:
    """Return where a folder's events are, or would be."""
    old = run_dir / OLD_NAME
    return old if old.exists() else run_dir / OUTBOX


def lock(run_dir: Path) -> FileLock:
    """Return the lock of whoever carries a folder's events; taking it raises ``filelock.Timeout`` if it is taken."""
    return FileLock(run_dir / LOCK, timeout=0, thread_local=False)


def _target(values: Mapping[str, Any]) -> Target | None:
    uri, artifacts, search = (values.get(item.name) for item in fields(Target))
    if not (isinstance(uri, str) and isinstance(artifacts, str | None) and isinstance(search, str)):
        return None
    return Target(uri, artifacts, search) if SEARCH.fullmatch(search) else None
