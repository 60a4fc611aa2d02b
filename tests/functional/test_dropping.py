"""Factors of Dropout, Spatial Dropout and DropBlock."""

import pytest
import torch

from keepaug.functional.dropping import drop_block_factor, dropout_factor, spatial_dropout_factor

P = torch.tensor(0.3)


def generator():
    return torch.Generator().manual_seed(0)


def slow_drop_block(x, prob, block, generator):
    """Algorithm 1 of the paper, square by square."""
    batch, channels, height, width = x.shape
    rows, cols = min(block, height), min(block, width)
    places = height - rows + 1, width - cols + 1
    gamma = prob * height * width / (rows * cols) / (places[0] * places[1])
    draws = torch.rand(batch, channels, *places, generator=generator)
    mask = torch.ones_like(x)
    for b, c, y, z in (draws < gamma).nonzero().tolist():
        mask[b, c, y : y + rows, z : z + cols] = 0
    return mask * mask.numel() / mask.sum()


def test_dropout():
    x = torch.zeros(40, 10, 8, 8)
    factor = dropout_factor(x, P, generator())
    assert factor.shape == x.shape and factor.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (factor == 0).float().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / x.numel()) ** 0.5)


def test_spatial_dropout_drops_maps():
    factor = spatial_dropout_factor(torch.zeros(200, 100, 8, 8), P, generator())
    assert factor.shape == (200, 100, 1, 1) and factor.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (factor == 0).float().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 20000) ** 0.5)


@pytest.mark.parametrize('size, block', [((9, 9), 3), ((8, 11), 4), ((7, 7), 7), ((3, 5), 7), ((6, 6), 1)])
def test_drop_block_against_its_algorithm(size, block):
    x = torch.zeros(3, 4, *size)
    torch.testing.assert_close(drop_block_factor(x, P, block, generator()), slow_drop_block(x, 0.3, block, generator()))


@pytest.mark.parametrize('prob', [0.05, 0.1])
def test_drop_block_drops_its_share_but_for_overlaps(prob):
    factor = drop_block_factor(torch.zeros(200, 100, 14, 14), torch.tensor(prob), 7, generator())
    dropped = (factor == 0).float().mean().item()
    assert 0.88 * prob < dropped < 1.02 * prob  # of about 4,000 squares or more
    assert factor.mean().item() == pytest.approx(1, abs=1e-4)


def test_drop_block_of_one_place_is_dropout():
    factor = drop_block_factor(torch.zeros(40, 10, 8, 8), P, 1, generator())
    assert torch.equal(factor == 0, dropout_factor(torch.zeros(40, 10, 8, 8), P, generator()) == 0)


@pytest.mark.parametrize(
    'factor', [dropout_factor, spatial_dropout_factor, lambda x, prob: drop_block_factor(x, prob, 3)]
)
def test_nothing_is_dropped_at_0_and_half_precision_stays(factor):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.zeros(2, 3, 6, 6, dtype=dtype)
        assert torch.equal(factor(x, torch.tensor(0.0)).expand_as(x), torch.ones_like(x))
        assert factor(x, P).dtype == dtype and factor(x, P).isfinite().all()


def test_everything_dropped_gives_no_nan():
    assert torch.equal(drop_block_factor(torch.zeros(1, 1, 4, 4), torch.tensor(1.0), 4), torch.zeros(1, 1, 4, 4))
