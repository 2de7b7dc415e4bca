"""One optimizer for all trials, against ``torch.optim.AdamW`` for each."""

import math

import pytest
import torch

from trainables.training.flat_adamw import MOMENTS, Step, rows_of, update

WIDTH = 40
SCALES = torch.tensor([1.0, 2.0]).repeat(3, WIDTH // 2)
TRIALS = [(1e-2, 0.0, 1.0), (3e-3, 0.1, 0.05), (1e-1, 0.01, 10.0)]


def gradients(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(len(TRIALS), WIDTH, generator=generator) * torch.tensor([[1e-3], [1.0], [1e2]])


def rate(learning_rate, step):
    return learning_rate * min((step + 1) / 20, (200 - step) / 181)


def alone(trial, steps):
    learning_rate, decay, clip = TRIALS[trial]
    parameter = torch.linspace(-1, 1, WIDTH).requires_grad_()
    optimizer = torch.optim.AdamW([parameter], lr=1.0, weight_decay=decay)
    for number, step in enumerate(steps):
        parameter.grad = gradients(step)[trial].clone()
        torch.nn.utils.clip_grad_norm_([parameter], clip)
        optimizer.param_groups[0]["lr"] = rate(learning_rate, number)
        optimizer.step()
    return [parameter.detach(), *(optimizer.state[parameter][name] for name in MOMENTS)]


def planes():
    flat = torch.zeros(4, len(TRIALS), WIDTH)
    flat[0] = torch.linspace(-1, 1, WIDTH)
    return flat


def together(flat, step, done, losses=(0.0, 0.0, 0.0), waiting=(), factors=None):
    flat[1] += gradients(step) / SCALES
    steps = [
        None if k in waiting else Step(done[k] + 1, rate(learning_rate, done[k]), decay, clip)
        for k, (learning_rate, decay, clip) in enumerate(TRIALS)
    ]
    return update(flat, SCALES, rows_of(steps, [0.0] * len(TRIALS)), torch.tensor(losses), factors)


def test_two_hundred_steps_are_those_of_each_alone():
    flat = planes()
    for step in range(200):
        norms = together(flat, step, [step] * 3)
        assert torch.allclose(norms, gradients(step).norm(dim=1))
        assert not flat[1].any()
    for k in range(len(TRIALS)):
        for here, there in zip((flat[0, k], flat[2, k], flat[3, k]), alone(k, range(200)), strict=True):
            assert torch.allclose(here, there, rtol=1e-6, atol=1e-6)


FACTORS = torch.tensor([1.0, 0.25, 0.0, 2.5]).repeat_interleave(WIDTH // 4)


def in_groups(trial, steps):
    """Train a trial with a group of PyTorch's optimizer for each factor; all are clipped together."""
    learning_rate, decay, clip = TRIALS[trial]
    parts = [part.clone().requires_grad_() for part in torch.linspace(-1, 1, WIDTH).chunk(4)]
    factors = [float(part[0]) for part in FACTORS.chunk(4)]
    optimizer = torch.optim.AdamW([{"params": [part]} for part in parts], weight_decay=decay)
    for step in range(steps):
        for part, gradient in zip(parts, gradients(step)[trial].chunk(4), strict=True):
            part.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parts, clip)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = factor * rate(learning_rate, step)
        optimizer.step()
    return torch.cat(parts).detach()


def test_a_learning_rate_for_each_slot_is_what_groups_are_to_the_optimizer_of_each_alone():
    flat, factors = planes(), torch.stack([FACTORS, torch.ones(WIDTH), FACTORS])
    for step in range(200):
        together(flat, step, [step] * 3, factors=factors)
    for k in (0, 2):
        assert torch.allclose(flat[0, k], in_groups(k, 200), rtol=1e-5, atol=1e-5)
    assert torch.equal(flat[0, 0, WIDTH // 2 : 3 * WIDTH // 4], torch.linspace(-1, 1, WIDTH)[WIDTH // 2 : -WIDTH // 4])
    assert torch.allclose(flat[0, 1], alone(1, range(200))[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wrong", ["loss", "earlier loss", "gradient"])
def test_one_whose_loss_or_gradient_is_not_finite_keeps_all_that_it_has(wrong):
    flat = planes()
    together(flat, 0, [0] * 3)
    before = flat.clone()
    flat[1] += gradients(1)
    steps = [Step(2, 0.1, 0.1, 1.0)] * 3
    if wrong == "gradient":
        flat[1, 1, 5] = math.inf
    losses = torch.tensor([0.0, math.nan if wrong == "loss" else 0.0, 0.0])
    norms = update(flat, SCALES, rows_of(steps, [0.0, math.inf if wrong == "earlier loss" else 0.0, 0.0]), losses)
    assert torch.equal(flat[[0, 2, 3], 1], before[[0, 2, 3], 1])
    assert math.isinf(norms[1]) == (wrong == "gradient")
    assert all((flat[[0, 2, 3], k] != before[[0, 2, 3], k]).any() for k in (0, 2))


def test_one_that_waits_keeps_its_gradients_and_has_steps_of_its_own_number():
    flat, done = planes(), [0, 0, 0]
    for step in range(6):
        waiting = (2,) if step % 2 else ()
        before = flat[:, 2].clone()
        together(flat, step, done, waiting=waiting)
        done = [count + (k not in waiting) for k, count in enumerate(done)]
        if waiting:
            assert torch.equal(flat[[0, 2, 3], 2], before[[0, 2, 3]])
            assert torch.equal(flat[1, 2], before[1] + gradients(step)[2] / SCALES[2])
            flat[1, 2] = 0
    for here, there in zip((flat[0, 2], flat[2, 2], flat[3, 2]), alone(2, (0, 2, 4)), strict=True):
        assert torch.allclose(here, there, rtol=1e-6, atol=1e-6)
