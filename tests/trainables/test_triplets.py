"""AdaLoRA's triplets and pruning, by hand-worked values."""

import peft
import pytest
import torch

from strategies.base import Site
from trainables.adapters.adapter import Adapter
from trainables.training import triplets
from trainables.training.triplets import CostAllocator, Triplets, penalty_gradient

SITES = (Site("a", 2, 2, 0, "attention"), Site("b", 4, 3, 0, "mlp"))


def pruning(budget, **phases):
    """Rank 2 at a (4 a unit) and at b (7 a unit): 22 at the start."""
    factors = {site.name: (torch.zeros(2, site.d_in), torch.zeros(site.d_out, 2)) for site in SITES}
    tensors = Triplets(Adapter(peft.LoraConfig(), factors, {"a": 2.0, "b": 2.0}), seed=0)
    config = peft.AdaLoraConfig(**{"total_step": 10, "tinit": 2, "tfinal": 3, "deltaT": 1, **phases})
    return tensors, CostAllocator(tensors, config, {site.name: site.cost for site in SITES}, budget)


def test_the_budget_falls_from_all_to_the_target_as_a_cube():
    _, allocator = pruning(11)
    # int(11 + 11 * (1 - (step - 2) / 5) ** 3) between the second step and the seventh
    budgets = [allocator.importance.budget_at(step)[0] for step in range(1, 11)]
    assert budgets == [22, 22, 16, 13, 11, 11, 11, 11, 11, 11]


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (22, {"a": [True, True], "b": [True, True]}),
        (21, {"a": [False, True], "b": [True, True]}),  # 7 + 7 + 4; another 4 is too much
        (17, {"a": [False, False], "b": [True, True]}),
        (12, {"a": [False, True], "b": [True, False]}),  # 7, then 7 does not fit but 4 does
        (6, {"a": [False, True], "b": [False, False]}),
    ],
)
def test_the_most_important_triplets_that_fit_are_kept(budget, kept, monkeypatch):
    tensors, allocator = pruning(budget)
    worth = {"a": [1.0, 2.0], "b": [4.0, 3.0]}
    monkeypatch.setattr(allocator.importance, "of", lambda name: torch.tensor(worth[name]))
    with torch.no_grad():
        for _, value, _ in tensors.values.values():
            value.fill_(1.0)
    allocator.keep_best(tensors, budget)
    assert {name: mask.tolist() for name, mask in allocator.masks.items()} == kept
    assert {n: (v != 0).flatten().tolist() for n, (_, v, _) in tensors.values.items()} == kept


def test_importance_is_that_of_the_triplets_tensors():
    tensors, allocator = pruning(11)
    q, value, p = tensors.values["a"]
    with torch.no_grad():
        q.fill_(1.0), value.fill_(2.0), p.fill_(3.0)
    for name, tensor in tensors.named_parameters():
        tensor.grad = torch.full_like(tensor, 0.5 if name.startswith("a.") else 0.0)
    allocator.importance.update(tensors)
    worth = {name: allocator.importance.of(name).tolist() for name in tensors.values}
    assert worth == {"a": [pytest.approx(0.066938, rel=1e-4)] * 2, "b": [0.0, 0.0]}


def test_the_penaltys_gradient_is_that_of_the_norm():
    torch.manual_seed(0)
    rows = torch.randn(3, 5, requires_grad=True)
    torch.linalg.norm(rows @ rows.t() - torch.eye(3)).backward()
    assert torch.allclose(penalty_gradient(rows.detach()), rows.grad, atol=1e-6)
    assert not penalty_gradient(torch.eye(3)).any()


def test_the_initial_vectors_are_spread_as_in_peft():
    factors = {"a": (torch.zeros(50, 400), torch.zeros(400, 50))}
    q, value, p = Triplets(Adapter(peft.LoraConfig(), factors, {"a": 1.0}), seed=1).values["a"]
    assert q.std().item() == pytest.approx(triplets.SPREAD, rel=0.05)
    assert p.std().item() == pytest.approx(triplets.SPREAD, rel=0.05)
    assert not value.any()
    assert not factors["a"][0].any()
