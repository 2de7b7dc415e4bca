"""The matrices of a model that can carry an adapter, and those that cannot, each with the reason. Imports no torch."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from strategies.base import Site
from trainables.models.context import Context

ONE_OF = {"matrices": "matrix", "routers": "router", "gates": "gate"}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Matrices of one kind that get no adapter.

    Args:
        what: What they are, in the plural.
        why: Why they get none.
        names: Of their modules.
        matrices: How many there are; a tensor of experts counts once for each.
        params: Their parameters.
    """

    what: str
    why: str
    names: tuple[str, ...]
    matrices: int
    params: int

    def __str__(self) -> str:
        noun, *rest = self.what.split(" ")
        one = ONE_OF.get(noun, noun) if self.matrices == 1 else noun
        return f"{self.matrices:,} {' '.join([one, *rest])} ({self.why})"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a model's text part can be adapted.

    Args:
        sites: The matrices that can carry an adapter, in the model's own order.
        left_out: The others.
        blocks: Names of the model's blocks, lowest first; a site's depth counts them.
        outside: Matrices outside the text model, which no text reaches, such as a vision tower's.
        silent: Sites that had a gradient of zero when they were looked at, since something frozen is zero there.
        skips: Whether the blocks below the first adapter may be skipped once their output is known.
        joins: Whether rows may be laid end to end.
    """

    sites: tuple[Site, ...]
    left_out: tuple[LeftOut, ...] = ()
    blocks: tuple[str, ...] = ()
    outside: int = 0
    silent: int = 0
    skips: bool = True
    joins: bool = True

    @property
    def share(self) -> float:
        """Share of the text model's parameters in matrices that lies in sites, from 0 to 1."""
        adapted = sum(site.d_in * site.d_out for site in self.sites)
        return adapted / (adapted + sum(item.params for item in self.left_out))

    def without(self, names: Iterable[str], what: str, why: str) -> "Coverage":
        """Return the coverage with some sites left out."""
        dropped = {*names}
        before = [item for item in self.left_out if (item.what, item.why) == (what, why)]
        sites = [site for site in self.sites if site.name in dropped]
        if not sites:
            return self
        item = LeftOut(
            what,
            why,
            (*(name for item in before for name in item.names), *(site.name for site in sites)),
            sum(item.matrices for item in before) + len(sites),
            sum(item.params for item in before) + sum(site.d_in * site.d_out for site in sites),
        )
        kept = tuple(site for site in self.sites if site.name not in dropped)
        return replace(self, sites=kept, left_out=(*(i for i in self.left_out if i not in before), item))

    @property
    def digest(self) -> str:
        """SHA-256 of the sites' names."""
        return hashlib.sha256("\n".join(site.name for site in self.sites).encode()).hexdigest()

    def __str__(self) -> str:
        matrices = len(self.sites) + sum(item.matrices for item in self.left_out)
        parts = [f"adapted: {len(self.sites):,} of {matrices:,} matrices, {self.share:.0%} of their parameters"]
        if self.silent:
            parts.append(f"{self.silent:,} of them had no gradient when they were tried")
        if self.left_out:
            parts.append("left out: " + ", ".join(map(str, self.left_out)))
        if self.outside:
            are = "matrix outside the text model is" if self.outside == 1 else "matrices outside the text model are"
            parts.append(f"{self.outside:,} {are} as before")
        if not self.skips:
            parts.append("no block is skipped, since later ones use more of it than its output")
        if not self.joins:
            parts.append("rows are not laid end to end, since they would see each other")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's shape, from its configuration alone: what can be adapted, parameters, context and vocabulary."""

    coverage: Coverage
    params: int
    context: Context
    vocabulary: int

    @property
    def sites(self) -> tuple[Site, ...]:
        """The matrices that can carry an adapter."""
        return self.coverage.sites


def cache_key(base: str | None, chosen: Coverage) -> str:
    """Return a digest of all that decides which of the chosen sites are sound: the model, our code and libraries."""
    digest = hashlib.sha256(f"{base}\0{chosen.digest}".encode())
    for name in ("peft", "torch", "transformers"):
        digest.update(importlib.metadata.version(name).encode())
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
