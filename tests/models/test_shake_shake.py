import torch

from keepaug.models.shake_shake import ShakeShakeBlock, TwoFlowShortcut


def test_shortcut_sees_every_other_place_and_their_lower_right_neighbours():
    shortcut = TwoFlowShortcut(1, 2).eval()
    x = torch.arange(20.0).view(1, 1, 4, 5) + 1
    with torch.no_grad():
        shortcut.conv1.weight.fill_(1)
        shortcut.conv2.weight.fill_(1)
        shortcut.norm.eps = 0.0
        y = shortcut(x)
    assert torch.equal(y[0, 0], torch.tensor([[1.0, 3, 5], [11, 13, 15]]))
    assert torch.equal(y[0, 1], torch.tensor([[7.0, 9, 0], [17, 19, 0]]))


def test_block_against_the_paper():
    """Section 2.1: ReLU, convolution, normalisation, twice, in both branches; identity beside; averaged at test."""
    block, x = ShakeShakeBlock(4, 4).eval(), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = x.clone()
        for branch in (block.branch1, block.branch2):
            y = branch.norm1(branch.conv1(x.relu()))
            expected += branch.norm2(branch.conv2(y.relu())) / 2
        given = x.clone()
        torch.testing.assert_close(block(given), expected)
    assert torch.equal(given, x)
