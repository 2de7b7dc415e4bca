import pytest
import torch
from torch.nn import functional

from trainables.models.device import Device
from trainables.training import frozen_head
from trainables.training.frozen_head import FrozenHeadLoss, frozen_head_losses


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def problem(request):
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 11, bias=request.param).requires_grad_(False)
    return layer, torch.randn(23, 5, requires_grad=True), torch.randint(0, 11, (23,))


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_losses_and_gradients_are_those_of_plain_cross_entropy(problem, rows, monkeypatch):
    monkeypatch.setattr(Device, "head_elements", rows * 11)
    monkeypatch.setattr(frozen_head, "LEAST_ROWS", 1)
    layer, hidden, targets = problem
    expected = functional.cross_entropy(layer(hidden), targets, reduction="none")
    weights = torch.rand(23)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    losses = frozen_head_losses(layer, hidden, targets)
    (actual,) = torch.autograd.grad((losses * weights).sum(), hidden)
    assert torch.allclose(losses, expected, atol=1e-6)
    assert torch.allclose(actual, gradient, atol=1e-6)


def test_large_logits_do_not_overflow():
    layer = torch.nn.Linear(1, 2, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.tensor([[1e4], [-1e4]]))
    losses = FrozenHeadLoss.apply(torch.tensor([[1.0], [1.0]]), layer.weight, None, torch.tensor([0, 1]))
    assert losses.tolist() == [0.0, 2e4]


def test_nan_stays_nan_and_in_its_own_row(problem):
    layer, hidden, targets = problem
    broken = hidden.detach().clone()
    broken[3] = float("nan")
    losses = frozen_head_losses(layer, broken, targets)
    assert losses.isnan().nonzero().tolist() == [[3]]


def test_chunks_have_64_rows_however_large_the_vocabulary(problem, monkeypatch):
    products = []
    linear = functional.linear
    monkeypatch.setattr(functional, "linear", lambda x, *others: products.append(len(x)) or linear(x, *others))
    monkeypatch.setattr(Device, "head_elements", 11)
    layer, _, _ = problem
    frozen_head_losses(layer, torch.randn(130, 5), torch.zeros(130, dtype=torch.long))
    assert products == [64, 64, 2]
