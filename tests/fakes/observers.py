"""Observers of searches that keep what they hear."""

from typing import Any

from tuning.observer import SearchObserver


class Lines(SearchObserver):
    """Keeps the lines, and the names of all that it hears of."""

    def __init__(self) -> None:
        self.noted_lines: list[str] = []
        self.warned_lines: list[str] = []
        self.heard: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in SearchObserver.__dict__ and not name.startswith("_"):
            self.heard.append(name)
        return super().__getattribute__(name)

    def noted(self, line: str) -> None:
        self.noted_lines.append(line)

    def warned(self, line: str) -> None:
        self.warned_lines.append(line)
