"""Which of a model's matrices were asked for, as PEFT names them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from strategies.base import Site
from trainables.models.coverage import Coverage

ALL = "all-linear"
PLAIN = re.compile(r"[\w.-]+")
LAYERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
NOT_CHOSEN = "matrices", "not chosen"


@dataclass(frozen=True, slots=True)
class Targets:
    """A choice among a model's matrices.

    Args:
        modules: ``all-linear``, or names and regexes. A name means all modules of that name, or whose name ends with a
            dot and it; what has other signs than a name's is a regex of the whole name.
        exclude: Names and regexes of what is left out of these.
        layers: Numbers of blocks, counted from 0, and ranges of them, as ``0-3,8``; None means all.

    Raises:
        ValueError: A regex or the layers cannot be read.

    Source:
        ``target_modules``, ``exclude_modules`` and ``layers_to_transform`` of PEFT's ``LoraConfig``.
    """

    modules: tuple[str, ...] = (ALL,)
    exclude: tuple[str, ...] = ()
    layers: str | None = None

    def __post_init__(self) -> None:
        for flag, values in (("--target-modules", self.modules), ("--exclude-modules", self.exclude)):
            for value in values:
                try:
                    re.compile(value)
                except re.error as error:
                    raise ValueError(f"{flag} {value}: no regex that can be read ({error})") from error
        if self.layers is not None and not LAYERS.fullmatch(self.layers):
            raise ValueError(f"--layers {self.layers}: give numbers of blocks and ranges, as 0-3,8")
        for first, last in self._ranges():
            if last < first:  # an empty choice means all blocks
                raise ValueError(f"--layers {self.layers}: {first}-{last} runs backwards; give {last}-{first}")

    def among(self, coverage: Coverage) -> Coverage:
        """Return the coverage with only what was chosen; what was not is named.

        Raises:
            ValueError: A choice means no matrix, or none is left.
        """
        sites, depths = coverage.sites, {*self._depths()}
        for flag, values in (("--target-modules", self.modules), ("--exclude-modules", self.exclude)):
            for value in values:
                if not any(_means(value, site) for site in sites):
                    names = sorted({site.name.rpartition(".")[2] for site in sites})
                    raise ValueError(f"{flag} {value}: no such matrix can be adapted; there are {', '.join(names)}")
        top = max(site.depth for site in sites)
        if depths and max(depths) > top:
            raise ValueError(f"--layers {self.layers}: the model's blocks are 0 to {top}")
        others = [
            site.name
            for site in sites
            if not any(_means(value, site) for value in self.modules)
            or any(_means(value, site) for value in self.exclude)
            or (depths and site.depth not in depths)
        ]
        if len(others) == len(sites):
            raise ValueError("--target-modules, --exclude-modules and --layers leave no matrix to adapt")
        return coverage.without(others, *NOT_CHOSEN)

    def _depths(self) -> Iterator[int]:
        for first, last in self._ranges():
            yield from range(first, last + 1)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        for part in filter(None, (self.layers or "").split(",")):
            first, _, last = part.partition("-")
            yield int(first), int(last or first)


def _means(value: str, site: Site) -> bool:
    if value == ALL:
        return True
    if PLAIN.fullmatch(value):
        return site.name == value or site.name.endswith(f".{value}")
    return re.fullmatch(value, site.name) is not None
