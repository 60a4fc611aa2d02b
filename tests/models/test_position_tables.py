"""Tables interpolated to another grid: what they mean stays, whatever axis the grid lies on."""

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from keepaug.models.position_tables import find_grid, resample

SIZES = (96, 64), (48, 32)  # six by four patches of 16 px, then three by two
OWNER = nn.Identity()


def table(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    'positions, size, expected',
    [
        (196, (224, 224), (14, 14)),
        (197, (224, 224), None),
        (24, (96, 64), (6, 4)),
        (6, (48, 32), (3, 2)),
        (25, (96, 64), None),
        (6, (32, 32), None),
        (12, (224, 160), (4, 3)),
        (1, (32, 32), (1, 1)),
        (0, (32, 32), None),
        (-2, (32, 32), None),
    ],
)
def test_grid(positions, size, expected):
    assert find_grid(positions, size) == expected


@pytest.mark.parametrize('prefix', [0, 1, 2])
def test_tokens_are_resampled_as_timm_does_it(prefix):
    embedding = table(1, prefix + 24, 5)
    expected = resample_abs_pos_embed(embedding, new_size=[3, 2], old_size=[6, 4], num_prefix_tokens=prefix)
    assert torch.equal(resample('pos_embed', embedding, (1, prefix + 6, 5), SIZES, OWNER), expected)


def test_the_axis_does_not_matter():
    tokens = table(24, 5)
    expected = resample('table', tokens, (6, 5), SIZES, OWNER)
    assert torch.equal(resample('attention_biases', tokens.T, (5, 6), SIZES, OWNER), expected.T)
    grid = tokens.reshape(6, 4, 5)
    assert torch.allclose(resample('nhwc', grid[None], (1, 3, 2, 5), SIZES, OWNER)[0].reshape(6, 5), expected)
    assert torch.allclose(
        resample('nchw', grid.permute(2, 0, 1)[None], (1, 5, 3, 2), SIZES, OWNER)[0].flatten(1).T, expected
    )
    blocks = tokens.expand(3, 24, 5)[None]
    assert torch.allclose(resample('blocks', blocks, (1, 3, 6, 5), SIZES, OWNER), expected.expand(1, 3, 6, 5))
    assert torch.allclose(resample('bias', tokens[:, 0], (6,), SIZES, OWNER), expected[:, 0])


def test_values_stay_where_they_are():
    # One bright corner, and a gradient from left to right.
    corner = torch.zeros(1, 24, 1)
    corner[0, 3] = 1.0  # top right of six by four
    assert resample('pos_embed', corner, (1, 6, 1), SIZES, OWNER).flatten().argmax() == 1  # top right of three by two
    slope = torch.arange(4.0).repeat(6).view(1, 24, 1)
    left, right = resample('pos_embed', slope, (1, 6, 1), SIZES, OWNER).view(3, 2).unbind(1)
    assert (left < 1.0).all() and (right > 2.0).all() and torch.allclose(left + right, torch.tensor(3.0))


def test_offsets_stay_symmetric():
    # Distances -5 ... 5 become -2 ... 2, a step being twice as far.
    distances = torch.arange(-5.0, 6.0)[:, None]
    expected = torch.tensor([-4.4, -2.2, 0.0, 2.2, 4.4])[:, None]
    assert torch.allclose(resample('rel_pos_h', distances, (5, 1), SIZES, OWNER), expected, atol=1e-6)


def test_layers_across_positions_keep_their_sums():
    into, across, out = nn.Linear(6, 7), nn.Linear(6, 6), nn.Linear(7, 6)
    weight = table(7, 1)
    resampled = resample('weight', weight.expand(7, 24), (7, 6), SIZES, into)
    assert torch.allclose(resampled.sum(1), weight.expand(7, 24).sum(1), atol=1e-5)
    even = torch.full((24, 24), 1 / 24)  # the mean of all positions, everywhere
    assert torch.allclose(resample('weight', even, (6, 6), SIZES, across), torch.full((6, 6), 1 / 6))
    assert torch.allclose(resample('weight', torch.ones(24, 7), (6, 7), SIZES, out), torch.ones(6, 7))
    assert torch.allclose(resample('bias', torch.ones(24), (6,), SIZES, out), torch.ones(6))


@pytest.mark.parametrize('old, new', [((1, 23, 4), (1, 6, 4)), ((24, 3, 24), (6, 3, 6)), ((2, 3, 4), (1, 2, 3))])
def test_what_is_no_grid_is_refused(old, new):
    with pytest.raises(ValueError, match='grid'):
        resample('mystery', table(*old), new, SIZES, OWNER)
