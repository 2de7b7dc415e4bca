"""What a layer computes for several adapters at once, against each written out by hand."""

import torch

from trainables.engine.stacked_adapters import AdaptedLinear
from trainables.models.frozen_linear import FrozenLinear


class TestAdaptedLinear:
    def inputs(self, bias=True):
        torch.manual_seed(0)
        shapes = {"x": (2, 5, 3), "down": (2, 2, 3), "up": (2, 2, 4)}
        tensors = {name: torch.randn(shape, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()}
        layer = FrozenLinear(torch.nn.Linear(3, 4, bias, dtype=torch.float64).requires_grad_(False))
        gradients = torch.zeros_like(tensors["down"]), torch.zeros_like(tensors["up"])
        return {"x": tensors.pop("x"), "layer": layer, **tensors, "gradients": gradients}

    def test_it_is_the_layer_plus_each_trials_product(self):
        parts = self.inputs()
        outputs = AdaptedLinear.apply(*parts.values(), None, (2, 5))
        for k in range(2):
            x = parts["x"][k]
            expected = parts["layer"].layer(x) + x @ parts["down"][k].T @ parts["up"][k]
            assert torch.allclose(outputs[k], expected)

    def test_gradients_are_those_of_the_formula_and_are_added_to_what_there_is(self):
        mask = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).expand(2, 5, 3).contiguous()
        for bias, dropped in ((True, None), (False, None), (True, mask)):
            parts = self.inputs(bias)
            x, down, up = parts["x"], parts["down"], parts["up"]
            weights = torch.randn(2, 5, 4, dtype=torch.float64)
            low = (x if dropped is None else x * dropped) @ down.mT
            formula = parts["layer"].layer(x) + low @ up
            expected = torch.autograd.grad((formula * weights).sum(), (x, down, up))
            parts["gradients"][1].fill_(3.0)
            (AdaptedLinear.apply(*parts.values(), dropped, (2, 5)) * weights).sum().backward()
            computed = x.grad, parts["gradients"][0], parts["gradients"][1] - 3
            assert all(torch.allclose(here, there) for here, there in zip(computed, expected, strict=True))

    def test_gradients_in_a_wider_dtype_are_added_to(self):
        parts = self.inputs()
        wide = tuple(torch.zeros(2, 2, width) for width in (3, 4))
        rough = [part.detach().bfloat16() for part in (parts["x"], parts["down"], parts["up"])]
        layer = FrozenLinear(parts["layer"].layer.bfloat16())
        x, down = rough[0].requires_grad_(), rough[1].requires_grad_()
        AdaptedLinear.apply(x, layer, down, rough[2], wide, None, (2, 5)).sum().backward()
        assert wide[1].dtype == torch.float32
        assert torch.allclose(wide[1], (x @ down.mT).sum(1)[..., None].float().expand(2, 2, 4), rtol=0.05)

    def test_nothing_below_the_first_adapter_gets_a_gradient(self):
        parts = self.inputs()
        parts["x"] = parts["x"].detach()
        AdaptedLinear.apply(*parts.values(), None, (2, 5)).sum().backward()
        assert parts["x"].grad is None
        assert parts["gradients"][0].any()

    def test_inputs_and_gradients_may_lie_in_memory_with_tokens_last(self):
        """As a convolution over tokens leaves them (Mamba), of trials that have one row each."""
        parts = self.inputs()
        turned = parts["x"].detach().mT.contiguous().mT.requires_grad_()
        weights = torch.randn(2, 4, 5, dtype=torch.float64).mT
        sums = [
            (AdaptedLinear.apply(x, *list(parts.values())[1:], None, (2, 5)) * weights).sum()
            for x in (parts["x"], turned)
        ]
        assert torch.allclose(*sums)
        for total in sums:
            total.backward()
        assert torch.allclose(turned.grad, parts["x"].grad)

    def test_it_has_the_shape_of_the_models_own_rows_and_may_be_added_to_in_place(self):
        parts = self.inputs()
        rows = AdaptedLinear.apply(*parts.values(), None, (10, 1))
        assert rows.shape == (10, 1, 4)
        assert torch.equal(rows.view(2, 5, 4), AdaptedLinear.apply(*parts.values(), None, (2, 5)))
        rows += 1  # Falcon adds attention's output to the MLP's
        rows.sum().backward()
        assert parts["gradients"][1].any()
