"""What of a text model is no site by what it is: routed experts, what chooses among them, and gates of one row."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trainables.models.frozen_linear import FrozenLinear

Role = tuple[str, str]
"""What matrices are instead of sites, and why they are none, as ``LeftOut`` says it."""
EXPERTS: Role = "matrices of routed experts", "each token meets only some of them"
SHARED_EXPERTS: Role = "matrices of shared experts", "they are no linear layers"
ROUTERS: Role = "routers", "they choose experts"
ROUTER_MATRICES: Role = "matrices of routers", "they choose experts"
GATES: Role = "gates", "they have one row"
EXPERT = re.compile(r"expert|moe", re.IGNORECASE)
SHARED = re.compile(r"shared", re.IGNORECASE)
ROUTER = re.compile(r"router", re.IGNORECASE)


def roles(text: Any) -> Iterator[tuple[str, Role, int, int]]:
    """Yield the name of each module that is no site, what it is, its matrices and their parameters.

    A tensor of experts counts once for each of them.

    Args:
        text: The part of a model that reads text.
    """
    modules = {name: module for name, module in text.named_modules() if name}
    experts = _experts(modules)
    routers = _routers(modules, experts)
    sizes = Counter(routers.values())
    for name, module in modules.items():
        if not (shapes := _shapes(module)):
            continue
        params = sum(map(torch.Size.numel, shapes))
        if (place := _place(name, experts)) is not None:
            each = 1 if FrozenLinear.is_one(module) else experts[place]
            yield name, EXPERTS, sum(shape[0] if len(shape) == 3 else each for shape in shapes), params
        elif name in routers:
            yield name, ROUTERS if sizes[routers[name]] == 1 else ROUTER_MATRICES, 1, params
        elif len(shapes[0]) == 3 and EXPERT.search(_said(name, module)):
            yield name, SHARED_EXPERTS, sum(shape[0] for shape in shapes), params
        elif FrozenLinear.is_one(module) and shapes[0][0] == 1:
            yield name, GATES, 1, params


def _shapes(module: Any) -> list[torch.Size]:
    """Return the shapes of a module's own matrices; what has two axes beside tensors of matrices is their biases.

    A tensor of one row is a vector, unless it is a linear layer's.
    """
    if FrozenLinear.is_one(module):
        return [torch.Size(FrozenLinear(module).shape)]
    shapes = [tensor.shape for tensor in module.parameters(recurse=False) if tensor.ndim >= 2 and len(tensor) > 1]
    return [shape for shape in shapes if len(shape) == 3] or shapes


def _experts(modules: Mapping[str, Any]) -> dict[str, int]:
    """Return the name of each module that holds routed experts, and how many: a list of them, or tensors of them."""
    experts = {}
    for name, module in modules.items():
        shapes = _shapes(module)
        if SHARED.search(_last(name)) or FrozenLinear.is_one(module):
            continue
        if isinstance(module, torch.nn.ModuleList) and name.endswith("experts"):
            experts[name] = len(module)
        elif shapes and len(shapes[0]) == 3 and EXPERT.search(_said(name, module)):
            experts[name] = max(shape[0] for shape in shapes)
        elif shapes and (place := _named_experts(name)) is not None and not ROUTER.search(_said(name, module)):
            experts[place] = _most_rows(modules, place)
    return experts


def _named_experts(name: str) -> str | None:
    """Return the beginning of a name that ends in ``experts``, shared ones apart; None if there is none."""
    parts = name.split(".")
    for place, part in enumerate(parts, 1):
        if part.endswith("experts") and not SHARED.search(part):
            return ".".join(parts[:place])
    return None


def _most_rows(modules: Mapping[str, Any], place: str) -> int:
    """Return how many experts the router beside them chooses among: its last matrix has a row for each."""
    return next((_shapes(modules[name])[0][0] for name in reversed(_named_routers(modules, place))), 1)


def _routers(modules: Mapping[str, Any], experts: Mapping[str, int]) -> dict[str, str]:
    """Return each module with a matrix that chooses experts, and the name of the router that it is in.

    A router is beside its experts, and is called one; where nothing is, it is what has a row for each of them.
    """
    routers: dict[str, str] = {}
    for place, count in experts.items():
        routers |= _named_routers(modules, place) or _by_rows(modules, place, count)
    return {name: router for name, router in routers.items() if _place(name, experts) is None}


def _named_routers(modules: Mapping[str, Any], place: str) -> dict[str, str]:
    """Return what ``_routers`` does of one layer, by what names and classes say."""
    layer = _parent(place)
    routers = [
        name
        for name, module in modules.items()
        if (name.startswith(f"{layer}.") and ROUTER.search(f"{_last(name)} {type(module).__name__}"))
        or (_last(name) == "gate" and _parent(name) in {layer, place})
    ]
    return {
        name: router
        for router in reversed(routers)  # of one within another the outer one is named
        for name, module in modules.items()
        if f"{name}.".startswith(f"{router}.") and _shapes(module)
    }


def _by_rows(modules: Mapping[str, Any], place: str, count: int) -> dict[str, str]:
    """Return what ``_routers`` does of one layer, by how many rows a matrix has; shared experts are passed over."""
    layer = _parent(place)
    inside = {name: name.removeprefix(f"{layer}.") for name in modules if name.startswith(f"{layer}.")}
    return {
        name: name
        for name, below in inside.items()
        if not SHARED.search(below) and (shapes := _shapes(modules[name])) and shapes[0][0] == count
    }


def _place(name: str, experts: Mapping[str, int]) -> str | None:
    """Return which of the modules of experts a module is, or is within; None if it is no expert's."""
    if name in experts:
        return name
    return next((place for place in experts if place.endswith("experts") and name.startswith(f"{place}.")), None)


def _said(name: str, module: Any) -> str:
    return f"{name} {type(module).__name__}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
