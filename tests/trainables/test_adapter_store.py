"""The tensors of many adapters in one: where they lie, whose views they are, and when they move."""

import pytest
import torch
from peft import LoraConfig

from trainables.adapters.adapter import Adapter
from trainables.engine.adapter_store import AdapterStore, Tenant


def adapter(scale, **ranks):
    factors = {
        name: (torch.randn(rank, 3).requires_grad_(), torch.randn(4, rank).requires_grad_())
        for name, rank in ranks.items()
    }
    return Adapter(LoraConfig(), factors, dict.fromkeys(ranks, scale))


def values(one):
    return [tensor.detach().clone() for tensor in one.adapter.parameters]


@pytest.fixture
def three():
    return [Tenant(adapter(0.5, x=1, y=2)), Tenant(adapter(2.0, x=3)), Tenant(adapter(1.0, y=1))]


@pytest.fixture
def store(three):
    store = AdapterStore(4, rows=3)
    for tenant in three:
        store.add(tenant)
    return store


def test_factors_lie_on_top_of_zeros_at_the_largest_rank():
    one, two, three = adapter(0.5, x=1, y=2), adapter(2.0, x=3), adapter(1.0, y=1)
    a, b = (tensor.detach().clone() for tensor in one.factors["x"])
    factors = AdapterStore.of([one, two, three], planes=1).factors(slice(0, 3))
    assert list(factors) == ["x", "y"]
    assert factors["x"].down.shape == (3, 3, 3)
    assert factors["x"].up.shape == (3, 3, 4)
    assert factors["y"].down.shape == (3, 2, 3)
    assert torch.equal(factors["x"].down[0], torch.cat([a, torch.zeros(2, 3)]))
    assert torch.equal(factors["x"].up[0], torch.cat([b.t() / 2, torch.zeros(2, 4)]))
    assert torch.equal(factors["x"].up[1], 2 * two.factors["x"][1].t())
    assert not factors["x"].down[2].any()


def test_some_rows_have_only_the_sites_and_ranks_that_they_need(store):
    assert list(store.factors(slice(1, 2))) == ["x"]
    assert store.factors(slice(0, 1))["x"].down.shape == (1, 1, 3)


def test_ranks_are_padded_to_a_multiple():
    store = AdapterStore(2, multiple=8)
    store.add(Tenant(adapter(1.0, x=3)))
    factors = store.factors(slice(0, 1))["x"]
    assert factors.down.shape == (1, 8, 3)
    assert not factors.down[:, 3:].any()


def test_an_adapters_tensors_and_gradients_are_views(store, three):
    a, b = three[0].adapter.factors["x"]
    for gradient in store.factors(slice(0, 3))["x"].gradients:
        gradient[0, 0] = 5.0
    assert (a.grad.tolist(), b.grad.tolist()) == ([[5.0] * 3], [[5.0]] * 4)
    store.scale_gradients(slice(0, 2))
    assert (a.grad.tolist(), b.grad.tolist()) == ([[5.0] * 3], [[2.5]] * 4)
    with torch.no_grad():
        b.fill_(7.0)
    assert store.factors(slice(0, 3))["x"].up[0].tolist() == [[3.5] * 4, [0.0] * 4, [0.0] * 4]


def test_factors_in_another_dtype_are_those_of_now(store, three):
    store.factors(slice(0, 3), torch.bfloat16)
    with torch.no_grad():
        three[1].adapter.factors["x"][0].fill_(0.5)
    factors = store.factors(slice(0, 3), torch.bfloat16)["x"]
    assert factors.down.dtype == factors.up.dtype == torch.bfloat16
    assert factors.down[1].eq(0.5).all()
    assert factors.gradients[0].dtype == torch.float32


def test_who_moves_takes_values_gradients_and_moments_along(store, three):
    store.remove(three[0])
    tensor, before = three[0].adapter.factors["y"][1], values(three[0])
    three[0].states[tensor] = {"exp_avg": torch.ones(4, 2), "exp_avg_sq": torch.full((4, 2), 2.0)}
    store.add(three[0])
    tensor.grad.fill_(3.0)
    assert store.rows([three[0], three[2]]) == slice(0, 2)
    store.add(Tenant(adapter(1.0, z=5)))
    assert all(map(torch.equal, values(three[0]), before))
    row = store.tenants.index(three[0])
    planes = [store.layout["y"].of(plane[row : row + 1], 2)[1] for plane in store.flat]
    assert [plane.unique().tolist() for plane in planes[1:]] == [[3.0], [1.0], [2.0]]
    assert torch.equal(planes[0][0].t(), before[3])
    assert store.layout["y"].of(store.scales[row : row + 1], 2)[1].eq(0.5).all()


def test_memory_stays_where_it_is_while_there_is_room(store, three):
    address = store.flat.data_ptr()
    store.rows([three[2], three[0]]), store.rows([three[1]])
    store.remove(three[1])
    store.add(Tenant(adapter(1.0, x=2, y=1)))
    assert store.flat.data_ptr() == address
    store.add(Tenant(adapter(1.0, x=1)))
    assert store.flat.data_ptr() != address
    assert store.flat.shape[1] == 2 * 3, "the next ones would move it again"


def test_who_has_left_keeps_values_that_nobody_changes(store, three):
    before = values(three[1])
    store.remove(three[1])
    store.remove(three[1])
    store.add(Tenant(adapter(1.0, x=3)))
    store.flat.fill_(9.0)
    assert all(map(torch.equal, values(three[1]), before))
    assert not store.tenants.count(three[1])


def test_a_row_of_who_has_left_is_zero_again(store, three):
    store.flat.fill_(9.0)
    store.remove(three[0])
    store.add(Tenant(adapter(1.0, x=1)))
    assert not store.flat[1:, 2].any()
    assert store.flat[0, 2].count_nonzero() == 3 + 4


def test_nobodys_row_is_mostly_padding(store):
    assert store.suits(Tenant(adapter(1.0, x=5)))
    assert not store.suits(Tenant(adapter(1.0, x=80)))
    large = AdapterStore(4)
    large.add(Tenant(adapter(1.0, x=80)))
    assert not large.suits(Tenant(adapter(1.0, x=5)))
    assert large.suits(Tenant(adapter(1.0, x=10)))


def test_padding_that_a_row_has_anyway_does_not_part_trials():
    store = AdapterStore(4, multiple=8)
    store.add(Tenant(adapter(1.0, x=1)))
    assert store.suits(Tenant(adapter(1.0, x=64)))
    assert not store.suits(Tenant(adapter(1.0, x=65)))


def test_an_adapter_for_which_memory_does_not_suffice_changes_nothing(store, three, monkeypatch):
    before, rows = [values(tenant) for tenant in three], store.flat

    def full(*arguments, **named):
        raise torch.OutOfMemoryError("there is no more")

    monkeypatch.setattr(torch, "zeros", full)
    late = Tenant(adapter(1.0, x=9))
    with pytest.raises(torch.OutOfMemoryError):
        store.add(late)
    assert store.flat is rows
    assert store.tenants == three
    assert all(all(map(torch.equal, values(t), b)) for t, b in zip(three, before, strict=True))


def factors_at(store, tenant, name):
    """Return the factors of a tenant's learning rates at a site, as one set; those of its padding, too."""
    row = store.tenants.index(tenant)
    rates = store.rate_factors(slice(row, row + 1))
    return {
        factor for view in store.layout[name].of(rates, store.layout[name].rank) for factor in view.unique().tolist()
    }


def test_learning_rates_of_sites_stay_with_their_row_wherever_it_goes(three, store):
    assert store.rate_factors(slice(0, 3)) is None
    sloped = Tenant(adapter(1.0, x=2, y=1), rate_factors={"x": 0.5, "y": 1.5})
    store.add(sloped)
    assert (factors_at(store, sloped, "x"), factors_at(store, sloped, "y")) == ({0.5}, {1.5})
    assert (store.rate_factors(slice(0, 4))[:3] == 1).all()
    assert store.rate_factors(slice(0, 3)) is None, "of those that have none nothing is multiplied"
    store.rows([sloped, three[1]])
    assert store.tenants[0] is sloped
    assert (factors_at(store, sloped, "x"), factors_at(store, sloped, "y")) == ({0.5}, {1.5})
    store.add(Tenant(adapter(1.0, x=9)))  # a larger rank moves all
    assert (factors_at(store, sloped, "x"), factors_at(store, sloped, "y")) == ({0.5}, {1.5})
    store.remove(sloped)
    late = Tenant(adapter(1.0, x=1), rate_factors={"x": 2.0})
    store.add(late)
    assert (factors_at(store, late, "x"), factors_at(store, late, "y")) == ({2.0}, {1.0})
