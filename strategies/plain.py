"""Plain LoRA on a set of matrices: the strongest simple rival."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from strategies.base import Evidence, Site, Strategy, Suggester, relative_depth

MODULE_SETS = ("all", "mlp", "attention", "upper_half")


@dataclass(frozen=True)
class Plain(Strategy):
    """``score = 1`` for the matrices of a set, else 0: one rank at each of them, as the budget allows.

    A set that the model has none of is all of its matrices. Its scale is that of all strategies (``--scale``).

    Args:
        modules: ``all`` is plain LoRA, ``mlp`` and ``attention`` one kind of matrix, ``upper_half`` the blocks from the
            middle up.

    Source:
        What people try first. PEFT's method comparison has plain LoRA on the MLP alone near the top at a small budget.
    """

    modules: str = "all"
    name: ClassVar[str] = "plain"
    known_good: ClassVar[Mapping[str, float | str]] = {"modules": "mlp"}
    neutral: ClassVar[Mapping[str, float | str] | None] = {"modules": "all"}

    def __post_init__(self) -> None:
        if self.modules not in MODULE_SETS:
            raise ValueError(f"plain/modules must be one of {', '.join(MODULE_SETS)}, got {self.modules!r}")

    @classmethod
    def suggest(cls, trial: Suggester) -> Self:
        """Draw a set."""
        return cls(modules=trial.suggest_categorical("modules", MODULE_SETS))

    def scores(self, sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
        """Return 1 or 0."""
        return {site.name: float(self._has(site, sites)) for site in sites}

    def _has(self, site: Site, sites: Sequence[Site]) -> bool:
        if self.modules == "upper_half":
            return relative_depth(site, sites) >= 0.5
        return self.modules in {"all", site.kind}
