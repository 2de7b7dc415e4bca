"""A frozen layer computes what PyTorch does, however its weight is stored."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from trainables.models.frozen_linear import FrozenLinear

LAYERS = {
    "dense": lambda: torch.nn.Linear(5, 3),
    "without bias": lambda: torch.nn.Linear(5, 3, bias=False),
    "Conv1D": lambda: Conv1D(3, 5),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return request.param().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_layer_itself(layer, dtype):
    layer, frozen = layer.to(dtype), FrozenLinear(layer.to(dtype))
    assert (frozen.in_features, frozen.out_features, frozen.quantized) == (5, 3, False)
    x = torch.randn(7, 5, dtype=dtype, requires_grad=True)
    y, out = layer(x), torch.empty(7, 3, dtype=dtype)
    frozen.matmul(x.detach(), out)
    torch.testing.assert_close(out, y)
    g = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(frozen.matmul_t(g), dx)


def test_a_weight_that_is_stored_in_the_wanted_dtype_is_not_copied(layer):
    weight = FrozenLinear(layer).dequantize(torch.float32)
    assert weight.shape == (5, 3)
    assert weight.data_ptr() == layer.weight.data_ptr()
    assert FrozenLinear(layer).dequantize(torch.bfloat16).dtype == torch.bfloat16


def test_the_weights_gradient_is_autograds_to_the_bit(layer):
    x, g = torch.randn(2, 4, 5), torch.randn(2, 4, 3)
    (expected,) = torch.autograd.grad(layer.requires_grad_()(x), [layer.weight], g)
    assert torch.equal(FrozenLinear(layer).weight_gradient(x, g), expected)
