"""From a model's modules to the matrices that can carry an adapter."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from strategies.base import Kind, Site
from trainables.models.coverage import Coverage, LeftOut
from trainables.models.experts import Role, roles
from trainables.models.frozen_linear import FrozenLinear

ATTENTION = re.compile(r"att(n|ention|\b|_)", re.IGNORECASE)
MLP = re.compile(r"mlp|feed_?forward|ffn", re.IGNORECASE)


def coverage_of(model: Any) -> Coverage:
    """List the matrices of a causal language model, from its modules alone.

    Linear layers of the text model are sites, its embeddings and its output embedding apart. Routed experts are none,
    nor are the layers that choose among them or weigh them.

    Raises:
        ValueError: There is nothing to adapt.
    """
    text, prefix = _text_model(model)
    linear = {prefix + name: module for name, module in text.named_modules() if FrozenLinear.is_one(module)}
    linear = {name: module for name, module in linear.items() if module is not model.get_output_embeddings()}
    left_out = _left_out(text, prefix)
    gone = {name for item in left_out for name in item.names}
    adaptable = {name: module for name, module in linear.items() if name not in gone}
    if not adaptable:
        raise ValueError(f"{type(model).__name__} has no linear or Conv1D layer to adapt")
    blocks = tuple(block_names(adaptable))
    depths = {name: depth for depth, name in enumerate(blocks)}
    sites = tuple(_site(model, name, module, depths) for name, module in adaptable.items())
    inside = {id(module) for module in text.modules()}
    outside = sum(
        FrozenLinear.is_one(module) and id(module) not in inside and module is not model.get_output_embeddings()
        for module in model.modules()
    )
    return Coverage(sites, left_out, blocks, outside)


def sites_of(model: Any) -> tuple[Site, ...]:
    """List the matrices that can carry an adapter, as ``coverage_of``."""
    return coverage_of(model).sites


def block_names(names: Iterable[str]) -> list[str]:
    """Return the names of a model's blocks, lowest first: of the numbered modules beside each other with most sites.

    Some models number other modules, too, such as Gemma 3n's projections between streams.

    Args:
        names: Of the sites.
    """
    numbered = [block for name in names if (block := _numbered(name))]
    if not numbered:
        return []
    beside = Counter(name.rpartition(".")[0] for name in numbered).most_common(1)[0][0]
    blocks = dict.fromkeys(name for name in numbered if name.rpartition(".")[0] == beside)
    return sorted(blocks, key=lambda name: int(name.rpartition(".")[2]))


def _numbered(name: str) -> str | None:
    """Return the name of a site's outermost numbered module; None if there is none."""
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return None if place is None else ".".join(parts[: place + 1])


def _text_model(model: Any) -> tuple[Any, str]:
    """Return the part of a model that reads text, and the prefix of its modules' names."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    for name, module in model.named_modules():
        if module is decoder and name:
            return module, f"{name}."
    return model, ""


def _site(model: Any, name: str, module: Any, depths: Mapping[str, int]) -> Site:
    layer = FrozenLinear(module)
    block = _numbered(name)
    inside = name if block is None else name.removeprefix(block + ".")
    return Site(name, layer.in_features, layer.out_features, depths.get(block or "", 0), _kind(model, name, inside))


def _kind(model: Any, name: str, inside: str) -> Kind:
    """Return what a layer is part of: what the innermost module within its block says by its name or its class."""
    parts = name.split(".")
    for place in range(len(parts), len(parts) - len(inside.split(".")), -1):
        said = f"{parts[place - 1]} {type(model.get_submodule('.'.join(parts[:place]))).__name__}"
        if ATTENTION.search(said):
            return "attention"
        if MLP.search(said):
            return "mlp"
    return "mlp"


def _left_out(text: Any, prefix: str) -> tuple[LeftOut, ...]:
    items: dict[Role, list[tuple[str, int, int]]] = {}
    for name, role, matrices, params in roles(text):
        items.setdefault(role, []).append((prefix + name, matrices, params))
    return tuple(
        LeftOut(*role, tuple(name for name, _, _ in rows), sum(row[1] for row in rows), sum(row[2] for row in rows))
        for role, rows in items.items()
    )
