"""Two peers timed in turns: A B B A, as ratios."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

NOISE = 0.25


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better this project is than a peer.

    Args:
        name: As ``--only`` takes it.
        device: Device of the measurement.
        ratios: One per pair.
        target: The least median wanted, or the largest if ``at_most``.
        at_most: True if smaller is better.
    """

    name: str
    device: str
    ratios: tuple[float, ...]
    target: float
    at_most: bool = False

    @property
    def median(self) -> float | None:
        """The median ratio, or None if the pairs vary by more than ``NOISE`` of it."""
        median = statistics.median(self.ratios)
        return median if max(self.ratios) - min(self.ratios) <= NOISE * median else None

    def row(self) -> dict[str, object]:
        """Return the record that ``--json`` writes."""
        return {
            "name": self.name, "device": self.device, "median": self.median, "min": min(self.ratios),
            "max": max(self.ratios), "pairs": len(self.ratios), "target": self.target,
        }  # fmt: skip

    def line(self) -> str:
        """Return the line that is printed."""
        low, high = min(self.ratios), max(self.ratios)
        target = f"target {'<=' if self.at_most else '>='} {self.target:g}"
        spread = f"({low:.2f} to {high:.2f}, {len(self.ratios)} pairs; {target})"
        if self.median is None:
            return f"{self.name}: too noisy {spread}"
        target_met = self.median <= self.target if self.at_most else self.median >= self.target
        return f"{self.name}: {self.median:.2f} {spread}{'' if target_met else ' MISSED'}"


def interleaved(a: Callable[[], float], b: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Return ``pairs`` results of (a, b), taken in the order A B B A A B B A …, so that drift hits both alike."""
    results = []
    for number in range(pairs):
        if number % 2:
            b_result = b()
            results.append((a(), b_result))
        else:
            a_result = a()
            results.append((a_result, b()))
    return results
