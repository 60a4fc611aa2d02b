import pytest
import timm
import torch
from timm.layers import DropPath

from keepaug.models.pyramidnet import PyramidNet, pyramid_widths


def test_widths_grow_by_equal_steps():
    """By hand: 16 + 10 k / 4."""
    assert pyramid_widths(4, 10) == [18, 21, 24, 26]  # of 18.5, 21, 23.5 and 26, halves to the even number
    assert pyramid_widths(4, 10, nearest=False) == [18, 21, 23, 26]


@pytest.mark.parametrize('blocks, alpha', [(36, 64), (66, 240), (90, 200)])
def test_no_width_of_the_papers_lies_between_two(blocks, alpha):
    """So that it does not matter which way halves go."""
    assert all((2 * alpha * number) % (2 * blocks) != blocks for number in range(blocks))


def test_block_against_the_paper():
    """Fig. 6 d: normalisation first, no ReLU after the addition, a shortcut with zeros for the new channels."""
    model = PyramidNet(depth=20, alpha=6).eval()
    block, x = model.stages[1][0], torch.randn(2, 72, 7, 8)
    with torch.no_grad():
        for buffer in block.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
        y = x
        for part in (
            block.branch.norm1,
            block.branch.conv1,
            block.branch.norm2,
            block.branch.conv2,
            block.branch.norm3,
            block.branch.conv3,
            block.branch.norm4,
        ):
            y = part(y)
            if part in (block.branch.norm2, block.branch.norm3):
                assert (y >= 0).all()
            elif part in (block.branch.norm1, block.branch.norm4):
                assert (y < 0).any()
        pooled = torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True)
        expected = y.clone()
        expected[:, :72] += pooled
        torch.testing.assert_close(block(x), expected)
    assert y.shape == (2, 76, 4, 4)


def test_stochastic_depth():
    model = PyramidNet(depth=29, alpha=9, drop_path_rate=0.25)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.25 * number / 8 for number in range(1, 9)])


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(depth=110 + 1), 'depth = 111 is not possible for a PyramidNet: use 2 more than a multiple of 9'),
        (dict(depth=2), 'depth = 2'),
        (dict(depth=20, shake_drop_rate=0.5, drop_path_rate=0.1), 'shake_drop_rate = 0.5 and drop_path_rate = 0.1'),
    ],
)
def test_refusals(kwargs, words):
    with pytest.raises(ValueError, match=words):
        timm.create_model('cifar_pyramidnet110_a64', **kwargs)
