"""Two peers timed in turns: A B B A, as ratios."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

NOISE = 0.25


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better ours is than a peer.

    Args:
        name: As ``--only`` takes it.
        device: Where it was measured.
        ratios: One per pair.
        target: What the median should reach, or stay under if ``at_most``.
        at_most: Whether smaller is better.
    """

    name: str
    device: str
    ratios: tuple[float, ...]
    target: float
    at_most: bool = False

    @property
    def median(self) -> float | None:
        """The ratio, or None if pairs vary by more than ``NOISE`` of it: then there is none."""
        middle = statistics.median(self.ratios)
        return middle if max(self.ratios) - min(self.ratios) <= NOISE * middle else None

    def row(self) -> dict[str, object]:
        """Return what ``--json`` writes."""
        return {
            "name": self.name, "device": self.device, "median": self.median, "min": min(self.ratios),
            "max": max(self.ratios), "pairs": len(self.ratios), "target": self.target,
        }  # fmt: skip

    def line(self) -> str:
        """Return what a person reads."""
        low, high = min(self.ratios), max(self.ratios)
        target = f"target {'<=' if self.at_most else '>='} {self.target:g}"
        spread = f"({low:.2f} to {high:.2f}, {len(self.ratios)} pairs; {target})"
        if self.median is None:
            return f"{self.name}: too noisy {spread}"
        met = self.median <= self.target if self.at_most else self.median >= self.target
        return f"{self.name}: {self.median:.2f} {spread}{'' if met else ' MISSED'}"


def interleaved(a: Callable[[], float], b: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Return ``pairs`` results of (a, b), taken in the order A B B A A B B A …, so that drift hits both alike."""
    taken = []
    for number in range(pairs):
        if number % 2:
            second = b()
            taken.append((a(), second))
        else:
            first = a()
            taken.append((first, b()))
    return taken
