"""What can be wrong with an adapter, as it is found: a kind for programs, a sentence for people, and the sites."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from analysis.results.messages import one_line

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: A stable name for programs.
        text: What it is, in one line.
        sites: The sites that it is about; empty if it is about none.
    """

    kind: str
    text: str
    sites: tuple[str, ...] = ()


def at(kind: str, text: str, sites: Sequence[str], of: int, detail: Callable[[str], str] = str) -> list[Finding]:
    """Return a finding about sites, the first of which are named; none without sites.

    Args:
        kind: As ``Finding.kind``.
        text: The sentence, without its sites.
        sites: Which.
        of: How many there are.
        detail: What is said of a site.
    """
    if not sites:
        return []
    return [Finding(kind, one_line(f"{text} at {len(sites)} of {of} sites: {listed(sites, detail)}"), tuple(sites))]


def listed(names: Iterable[str], detail: Callable[[str], str] = str) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(detail(name) for name in names[:SHOWN]) + more
