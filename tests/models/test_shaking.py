"""Shaken residual branches: exact against drawn numbers, unbiased at test, one draw per image."""

import pytest
import timm
import torch
from torch import nn

import keepaug.models  # noqa: F401, registers the networks
from keepaug.models.pyramidnet import PyramidNet
from keepaug.models.shaking import ShakeDrop, ShakeShake, scale_apart

N = 40000


def ones(*shape):
    return torch.ones(*shape, requires_grad=True)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_one_factor_forward_and_another_backward():
    x = torch.randn(3, 2, 2, 2, requires_grad=True)
    forward, backward = torch.randn(3, 1, 1, 1), torch.randn(3, 1, 1, 1)
    y = scale_apart(x, forward, backward)
    y.sum().backward()
    torch.testing.assert_close(y, x * forward)
    torch.testing.assert_close(x.grad, backward.expand_as(x))


def test_shake_drop_as_its_equation_says():
    """b + a - b a is 1 where b is, and a, uniform in [-1, 1], elsewhere; backward c, uniform in [0, 1], elsewhere."""
    x = ones(N, 1, 1, 1)
    y = ShakeDrop(0.4).train()(x)
    y.sum().backward()
    forward, backward = y.detach().flatten(), x.grad.flatten()
    shaken = (forward - 1).abs() > 1e-6
    assert shaken.float().mean().item() == pytest.approx(0.4, abs=4 * (0.24 / N) ** 0.5)
    assert torch.equal(shaken, (backward - 1).abs() > 1e-6)
    a, c = forward[shaken], backward[shaken]
    for values, low, high in ((a, -1, 1), (c, 0, 1)):
        assert low <= values.min() and values.max() <= high
        grid = torch.linspace(low, high, len(values))
        assert (values.sort().values - grid).abs().max() < 0.02 * (high - low)  # Kolmogorov and Smirnov, n = 16,000
    assert torch.corrcoef(torch.stack([a, c]))[0, 1].abs() < 0.04


def test_shake_drop_is_unbiased_at_test():
    module, x = ShakeDrop(0.4), torch.ones(N, 1, 1, 1)
    assert torch.equal(module.eval()(x[:1]), torch.full((1, 1, 1, 1), 0.6))
    variance = 0.4 / 3 + 0.6 - 0.36
    assert module.train()(x).mean().item() == pytest.approx(0.6, abs=4 * (variance / N) ** 0.5)


def test_shake_shake_as_its_equation_says():
    first, second = ones(N, 1, 1, 1), ones(N, 1, 1, 1)
    module = ShakeShake().train()
    y = module(first, 3 * second)
    y.sum().backward()
    a, c = 1 - (y.detach().flatten() - 1) / 2, first.grad.flatten()
    torch.testing.assert_close(second.grad.flatten(), 3 * (1 - c))
    for values in (a, c):
        assert (values.sort().values - torch.linspace(0, 1, N)).abs().max() < 0.015
    assert torch.corrcoef(torch.stack([a, c]))[0, 1].abs() < 0.03
    assert torch.equal(module.eval()(first[:2], 3 * second[:2]), torch.full((2, 1, 1, 1), 2.0))


@pytest.mark.parametrize('shake', [ShakeDrop(1.0), lambda x: ShakeShake()(x, 2 * x)])
def test_every_image_has_its_own_draw_for_all_its_places(shake):
    y = shake(torch.ones(6, 3, 4, 5))
    assert torch.equal(y, y[:, :1, :1, :1].expand_as(y))
    assert len(set(y[:, 0, 0, 0].tolist())) == 6


def test_depth_rule_of_shake_drop():
    """Block l of L is shaken with l / L of the rate: the first a little, the last fully."""
    model = PyramidNet(depth=29, alpha=9, shake_drop_rate=0.5)
    rates = [module.rate for module in model.modules() if isinstance(module, ShakeDrop)]
    assert rates == pytest.approx([0.5 * number / 9 for number in range(1, 10)])


def test_the_networks_that_are_shaken():
    with torch.device('meta'):
        shaken, plain = (timm.create_model(f'cifar_pyramidnet{name}') for name in ('272_a200', '200_a240'))
    rates = [module.rate for module in shaken.modules() if isinstance(module, ShakeDrop)]
    assert len(rates) == 90 and rates[-1] == 0.5
    assert not any(isinstance(module, ShakeDrop) for module in plain.modules())


@pytest.mark.parametrize(
    'name, settings',
    [('cifar_pyramidnet272_a200', dict(depth=20, alpha=8)), ('cifar_shake_shake26_2x96d', dict(blocks=1, width=8))],
)
def test_training_is_random_and_evaluation_is_not(name, settings):
    model, x = timm.create_model(name, **settings), torch.randn(2, 3, 8, 8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = torch.ones(2, 1, 1, 1, dtype=dtype, requires_grad=True)
    for y in (ShakeDrop(0.5)(x), ShakeShake()(x, x)):
        assert y.dtype == dtype
        y.sum().backward()
        assert x.grad.isfinite().all()
