"""The tensors of many adapters in one: a trial has a row of values, gradients and moments, and a site views of it."""

import itertools
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from trainables.adapters.adapter import Adapter
from trainables.training.flat_adamw import MOMENTS

_MEMORIES = itertools.count()
MOST_PADDING = 8
"""A row is at most so many times as long as its trial would need alone; others get a store of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A layer's factors for K trials; R is the largest rank among them.

    Args:
        down: (K, R, d_in), every trial's A on top of zeros.
        up: (K, R, d_out), every trial's B, transposed and scaled, on top of zeros.
        gradients: Of A and of the scaled B, which a backward pass adds to; None if there is to be none.
    """

    down: torch.Tensor
    up: torch.Tensor
    gradients: tuple[torch.Tensor, torch.Tensor] | None = None


class Place(NamedTuple):
    """Where a site's factors lie in a row, and how large they may be there."""

    start: int
    rank: int
    d_in: int
    d_out: int

    def of(self, plane: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the views of ``down`` (rows, rank, d_in) and ``up`` (rows, rank, d_out) in a plane (rows, width)."""
        middle, stop = self.start + self.rank * self.d_in, self.start + self.rank * (self.d_in + self.d_out)
        down = plane[:, self.start : middle].view(len(plane), self.rank, self.d_in)
        up = plane[:, middle:stop].view(len(plane), self.rank, self.d_out)
        return down[:, :rank], up[:, :rank]


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """An adapter in a store.

    Args:
        adapter: Its tensors become views of the store.
        states: Parameter -> what an optimizer knows of it, by name; its moments become views, too.
        rate_factors: Adapted site -> what its learning rate is multiplied by; empty if by 1 everywhere.
    """

    adapter: Adapter
    states: MutableMapping[torch.Tensor, dict[str, torch.Tensor]] = field(default_factory=dict)
    rate_factors: Mapping[str, float] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """Numbers in its tensors."""
        return sum(tensor.numel() for tensor in self.adapter.parameters)


class AdapterStore:
    """Holds the tensors of adapters in one, a row each: nothing is copied between passes.

    Adapters' own tensors become views, so that an optimizer of one trial changes the store, and one operation over a
    plane those of all. Passes are given them scaled. What is beyond an adapter's rank is zero and stays so. The memory
    moves only when an adapter comes that has a larger rank at a site than any before it, or when there is no row left:
    then there are twice as many. ``memory`` is another number from then on.

    Args:
        planes: 1 for values alone, 2 with gradients, 4 with moments.
        rows: Rows that there are at the beginning.
        multiple: Ranks are padded to one of this.
    """

    def __init__(self, planes: int, rows: int = 1, multiple: int = 1) -> None:
        self.planes, self.multiple = planes, multiple
        self.tenants: list[Tenant] = []
        self.layout: dict[str, Place] = {}
        self.flat, self.scales = torch.zeros(planes, rows, 0), torch.ones(rows, 0)
        self._rate_factors: torch.Tensor | None = None  # as large as a plane, and few trials have any
        self.memory = next(_MEMORIES)
        self._scaled: dict[torch.dtype, torch.Tensor] = {}
        self._factors: dict[tuple[int, int, torch.dtype], dict[str, Factors]] = {}
        self._ranks: dict[tuple[int, int], dict[str, int]] = {}

    @classmethod
    def of(cls, adapters: Sequence[Adapter], planes: int) -> "AdapterStore":
        """Return a store of some adapters, in their order; gradients that they have accumulated are kept."""
        store = cls(planes, len(adapters))
        store.add(*(Tenant(adapter) for adapter in adapters))
        return store

    def suits(self, tenant: Tenant) -> bool:
        """Return True if nobody's row would be mostly padding with a tenant in the store."""
        layout = self._layout_with([tenant])
        width = sum(place.rank * (place.d_in + place.d_out) for place in layout.values())
        return width <= MOST_PADDING * min(map(self._width, [*self.tenants, tenant]))

    def add(self, *tenants: Tenant) -> None:
        """Give tenants a row each; their values, gradients and moments are what they were.

        Raises:
            RuntimeError: Memory does not suffice; then nothing has changed.
        """
        layout, count = self._layout_with(tenants), len(self.tenants) + len(tenants)
        with torch.inference_mode(False), torch.no_grad():
            if layout != self.layout or count > self.flat.shape[1]:
                rows = self.flat.shape[1]
                self._grow(layout, rows if count <= rows else max(count, 2 * rows), tenants)
            for tenant in tenants:
                self._move_in(len(self.tenants), tenant)
                self.tenants.append(tenant)
        self._factors.clear()
        self._ranks.clear()

    def remove(self, tenant: Tenant) -> None:
        """Give a tenant tensors of its own, with the values and moments that it has, and its row to others.

        Do nothing if it is not there.
        """
        if tenant not in self.tenants:
            return
        self._reorder([*(other for other in self.tenants if other is not tenant), tenant])
        with torch.inference_mode(False), torch.no_grad():
            for tensor in tenant.adapter.parameters:
                tensor.data, tensor.grad = tensor.data.clone(), None
                state = tenant.states.get(tensor, {})
                state |= {name: state[name].clone() for name in MOMENTS if name in state}
            row = len(self.tenants) - 1
            self.flat[:, row], self.scales[row] = 0, 1
            self._rates(row, {})
        self.tenants.pop()

    def rows(self, tenants: Sequence[Tenant]) -> slice:
        """Return the rows of some tenants, in their order; rows change places if these do not lie so."""
        first = self.tenants.index(tenants[0]) if tenants else 0
        rows = slice(first, first + len(tenants))
        if self.tenants[rows] == [*tenants]:
            return rows
        chosen = {*tenants}
        self._reorder([*tenants, *(other for other in self.tenants if other not in chosen)])
        return slice(0, len(tenants))

    def factors(self, rows: slice, dtype: torch.dtype = torch.float32) -> dict[str, Factors]:
        """Return the factors of some rows at each site that one of them adapts, as they are now in a dtype."""
        key = (rows.start, rows.stop, dtype)
        # evaluation asks, too, and inference tensors could not be trained later
        with torch.inference_mode(False), torch.no_grad():
            if dtype not in self._scaled:
                self._scaled[dtype] = torch.zeros_like(self.flat[0], dtype=dtype)
            torch.mul(self.flat[0, rows], self.scales[rows], out=self._scaled[dtype][rows])
            if key not in self._factors:
                self._factors[key] = self._views(rows, self._scaled[dtype])
        return self._factors[key]

    def rate_factors(self, rows: slice) -> torch.Tensor | None:
        """Return what each learning rate of some rows is multiplied by, (rows, width); None if by 1 everywhere."""
        if self._rate_factors is None or not any(tenant.rate_factors for tenant in self.tenants[rows]):
            return None
        return self._rate_factors[rows]

    def ranks(self, rows: slice) -> dict[str, int]:
        """Return the rank of ``factors`` at each site that one of some rows adapts."""
        key = (rows.start, rows.stop)
        if key not in self._ranks:
            each = [tenant.adapter.ranks for tenant in self.tenants[rows]]
            largest = {name: max(ranks.get(name, 0) for ranks in each) for name in self.layout}
            self._ranks[key] = {name: padded(rank, self.multiple) for name, rank in largest.items() if rank}
        return self._ranks[key]

    def scale_gradients(self, rows: slice) -> None:
        """Make the gradients that passes have added to those of the adapters; once, after a step's last pass."""
        self.flat[1, rows].mul_(self.scales[rows])

    def _views(self, rows: slice, values: torch.Tensor) -> dict[str, Factors]:
        factors = {}
        for name, rank in self.ranks(rows).items():
            place = self.layout[name]
            down, up = (view.requires_grad_(self.planes > 1) for view in place.of(values[rows].detach(), rank))
            gradients = place.of(self.flat[1, rows], rank) if self.planes > 1 else None
            factors[name] = Factors(down, up, gradients)
        return factors

    def _width(self, tenant: Tenant) -> int:
        """Return how long a tenant's row would be in a store of its own."""
        return sum(padded(len(a), self.multiple) * (a.shape[1] + len(b)) for a, b in tenant.adapter.factors.values())

    def _layout_with(self, tenants: Sequence[Tenant]) -> dict[str, Place]:
        sizes = {name: place[1:] for name, place in self.layout.items()}
        for tenant in tenants:
            for name, (a, b) in tenant.adapter.factors.items():
                rank = max(sizes.get(name, (0,))[0], padded(len(a), self.multiple))
                sizes[name] = (rank, a.shape[1], len(b))
        start, layout = 0, {}
        for name, (rank, d_in, d_out) in sizes.items():
            layout[name] = Place(start, rank, d_in, d_out)
            start += rank * (d_in + d_out)
        return layout

    def _grow(self, layout: dict[str, Place], rows: int, coming: Sequence[Tenant]) -> None:
        width = sum(place.rank * (place.d_in + place.d_out) for place in layout.values())
        device = next((t.device for tenant in coming for t in tenant.adapter.parameters), self.flat.device)
        flat, scales = torch.zeros(self.planes, rows, width, device=device), torch.ones(rows, width, device=device)
        self.flat, self.scales, self.layout, self.memory = flat, scales, layout, next(_MEMORIES)
        self._scaled.clear()
        self._rate_factors = None
        for row, tenant in enumerate(self.tenants):
            self._move_in(row, tenant)

    def _move_in(self, row: int, tenant: Tenant) -> None:
        """Copy a tenant's tensors into a row, and make them views of it."""
        for name, scale in tenant.adapter.scales.items():
            self.layout[name].of(self.scales[row : row + 1], self.layout[name].rank)[1].fill_(scale)
        self._rates(row, tenant.rate_factors)
        for tensor, (value, *others) in self._places(row, tenant):
            value.copy_(tensor)
            for place, source in zip(others, _others(tensor, tenant), strict=False):
                if source is not None:
                    place.copy_(source)
        self._point(row, tenant)

    def _rates(self, row: int, factors: Mapping[str, float]) -> None:
        """Set the factors of a row's learning rates; there is nothing to set as long as nobody has any."""
        if self._rate_factors is None and factors:
            self._rate_factors = torch.ones_like(self.scales)
        if self._rate_factors is not None:
            self._rate_factors[row] = 1
            for name, factor in factors.items():
                for view in self.layout[name].of(self._rate_factors[row : row + 1], self.layout[name].rank):
                    view.fill_(factor)

    def _point(self, row: int, tenant: Tenant) -> None:
        for tensor, (value, *others) in self._places(row, tenant):
            tensor.data = value
            if others:
                tensor.grad = others[0]
            if tensor in tenant.states:
                tenant.states[tensor] |= dict(zip(MOMENTS, others[1:], strict=True))

    def _places(self, row: int, tenant: Tenant) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Return each of a tenant's tensors with its views in every plane."""
        places = []
        for name, (a, b) in tenant.adapter.factors.items():
            views = [self.layout[name].of(plane[row : row + 1], len(a)) for plane in self.flat]
            places += [(a, [down[0] for down, _ in views]), (b, [up[0].t() for _, up in views])]
        return places

    def _reorder(self, tenants: list[Tenant]) -> None:
        self._factors.clear()
        self._ranks.clear()
        if self.tenants == tenants:
            return
        with torch.inference_mode(False), torch.no_grad():
            order, count = [self.tenants.index(tenant) for tenant in tenants], len(tenants)
            self.flat[:, :count], self.scales[:count] = self.flat[:, order], self.scales[order]
            if self._rate_factors is not None:
                self._rate_factors[:count] = self._rate_factors[order]
            for row, (before, tenant) in enumerate(zip(order, tenants, strict=True)):
                if row != before:
                    self._point(row, tenant)
        self.tenants = tenants


def _others(tensor: torch.Tensor, tenant: Tenant) -> list[torch.Tensor | None]:
    """Return a tensor's gradient and moments, as far as there are any."""
    state = tenant.states.get(tensor, {})
    return [tensor.grad, *(state.get(name) for name in MOMENTS)]


def padded(rank: int, multiple: int) -> int:
    """Return the least multiple that is no less than a rank."""
    return -(-rank // multiple) * multiple
