"""Several adapters as one, against each written out by hand."""

import torch
from peft import LoraConfig

from trainables.adapters.adapter import Adapter
from trainables.engine.stacked_adapters import AdaptedLinear, Stack
from trainables.models.frozen_linear import FrozenLinear


def adapter(scale, **ranks):
    factors = {
        name: (torch.randn(rank, 3).requires_grad_(), torch.randn(4, rank).requires_grad_())
        for name, rank in ranks.items()
    }
    return Adapter(LoraConfig(), factors, dict.fromkeys(ranks, scale))


class TestStack:
    def test_the_factors_lie_on_top_of_zeros_at_the_largest_rank(self):
        one, two, three = adapter(0.5, x=1, y=2), adapter(2.0, x=3), adapter(1.0, y=1)
        a, b = (tensor.detach().clone() for tensor in one.factors["x"])
        factors = Stack([one, two, three]).factors
        assert list(factors) == ["x", "y"]
        assert factors["x"].down.shape == (3, 3, 3)
        assert factors["x"].up.shape == (3, 3, 4)
        assert factors["y"].down.shape == (3, 2, 3)
        assert torch.equal(factors["x"].down[0], torch.cat([a, torch.zeros(2, 3)]))
        assert torch.equal(factors["x"].up[0], torch.cat([b.t(), torch.zeros(2, 4)]))
        assert not factors["x"].down[2].any()
        assert factors["x"].scale.flatten().tolist() == [0.5, 2.0, 0.0]

    def test_the_adapters_tensors_and_gradients_are_views(self):
        one, two = adapter(1.0, x=2), adapter(1.0, x=1)
        a, b = two.factors["x"]
        a.grad = torch.full((1, 3), 5.0)
        stack = Stack([one, two]).factors["x"]
        assert stack.down.grad[1, 0].tolist() == [5.0] * 3
        (stack.down.sum() + 2 * stack.up.sum()).backward()
        assert a.grad.tolist() == [[6.0] * 3]
        assert b.grad.tolist() == [[2.0]] * 4
        with torch.no_grad():
            b.fill_(7.0)
        assert stack.up[1].tolist() == [[7.0] * 4, [0.0] * 4]

    def test_a_later_stack_takes_values_and_gradients_along(self):
        one, two = adapter(1.0, x=2), adapter(1.0, x=3)
        before = one.factors["x"][0].detach().clone()
        Stack([one, two]).factors["x"].down.sum().backward()
        again = Stack([one]).factors["x"]
        assert torch.equal(again.down[0], before)
        assert again.down.grad.tolist() == [[[1.0] * 3] * 2]


class TestAdaptedLinear:
    def inputs(self, bias=True):
        torch.manual_seed(0)
        shapes = {"x": (2, 5, 3), "down": (2, 2, 3), "up": (2, 2, 4)}
        tensors = {name: torch.randn(shape, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()}
        layer = FrozenLinear(torch.nn.Linear(3, 4, bias, dtype=torch.float64).requires_grad_(False))
        scale = torch.tensor([[[0.5]], [[2.0]]], dtype=torch.float64)
        return {"x": tensors.pop("x"), "layer": layer, **tensors, "scale": scale}

    def test_it_is_the_layer_plus_each_trials_scaled_product(self):
        parts = self.inputs()
        outputs = AdaptedLinear.apply(*parts.values(), None, (2, 5))
        for k, scale in enumerate((0.5, 2.0)):
            x = parts["x"][k]
            expected = parts["layer"].layer(x) + scale * x @ parts["down"][k].T @ parts["up"][k]
            assert torch.allclose(outputs[k], expected)

    def test_gradients_are_those_of_finite_differences(self):
        mask = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).expand(2, 5, 3).contiguous()
        for bias in (True, False):
            parts = list(self.inputs(bias).values())
            assert torch.autograd.gradcheck(AdaptedLinear.apply, (*parts, None, (2, 5)))
            assert torch.autograd.gradcheck(AdaptedLinear.apply, (*parts, mask, (2, 5)))

    def test_nothing_below_the_first_adapter_gets_a_gradient(self):
        parts = self.inputs()
        parts["x"] = parts["x"].detach()
        AdaptedLinear.apply(*parts.values(), None, (2, 5)).sum().backward()
        assert parts["x"].grad is None
        assert parts["down"].grad.any()

    def test_it_has_the_shape_of_the_models_own_rows_and_may_be_added_to_in_place(self):
        parts = self.inputs()
        rows = AdaptedLinear.apply(*parts.values(), None, (10, 1))
        assert rows.shape == (10, 1, 4)
        assert torch.equal(rows.view(2, 5, 4), AdaptedLinear.apply(*parts.values(), None, (2, 5)))
        rows += 1  # Falcon adds attention's output to the MLP's
        rows.sum().backward()
        assert parts["up"].grad.any()
