"""What backward passes tell of images, and what keep-cut makes of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keepaug import create_augment
from keepaug.augment import Compose, CutMix, JointOcclusion
from keepaug.augment.recycled import SaliencyMaps
from keepaug.functional.saliency_maps import LEVELS
from tests.functional.toys import small_cnn

SIZE = 16


def whole(*index: int, size: int = SIZE) -> torch.Tensor:
    """Rows of images that are not cropped."""
    return torch.tensor([[i, size, size, 0, 0, size, size, 0, 0] for i in index])


class Weighted(nn.Module):
    """A model whose loss is a sum of pixels with weights of the sample's own: its gradient is known."""

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weights).sum()


def plant(maps: SaliencyMaps, weights: torch.Tensor, where: torch.Tensor, kept=None, scale: float = 1.0) -> None:
    """Writes a known gradient (B, C, H, W) by way of a backward pass."""
    x = maps.listen(torch.randn(weights.shape), where, kept)
    (Weighted(weights)(x) * scale).backward()


def test_a_backward_pass_writes_the_largest_channel():
    maps = SaliencyMaps(3, cells=4)
    weights = torch.zeros(1, 3, SIZE, SIZE)
    weights[0, 1, :4, :4] = -6.0
    weights[0, 2] = 2.0
    plant(maps, weights, whole(1))
    read = maps.read(whole(0, 1, 2), (4, 4))
    expected = torch.full((4, 4), 2.0)
    expected[0, 0] = 6.0
    torch.testing.assert_close(read[1, 0], expected / expected.mean(), rtol=2 / LEVELS, atol=0)
    assert (read[[0, 2]] == 0).all() and maps.written.tolist() == [False, True, False]
    assert (maps.levels[[0, 2]] == 0).all()


@pytest.mark.parametrize('scale', [1e-6, 65536.0])
def test_factors_cancel(scale):
    one, other = SaliencyMaps(2), SaliencyMaps(2)
    weights = torch.rand(2, 3, SIZE, SIZE)
    plant(one, weights, whole(0, 1))
    plant(other, weights, whole(0, 1), scale=scale)
    assert (one.levels.int() - other.levels.int()).abs().max() <= 1


@pytest.mark.parametrize('fill', [0.0, float('inf'), float('nan')])
def test_a_row_that_tells_nothing_leaves_its_map(fill):
    maps = SaliencyMaps(2)
    plant(maps, torch.rand(2, 1, SIZE, SIZE), whole(0, 1))
    before = maps.levels.clone(), maps.scales.clone()
    weights = torch.rand(2, 1, SIZE, SIZE)
    weights[0] = fill
    plant(maps, weights, whole(0, 1))
    assert torch.equal(maps.levels[0], before[0][0]) and maps.scales[0] == before[1][0]
    assert not torch.equal(maps.levels[1], before[0][1])


def test_half_old_half_new():
    maps = SaliencyMaps(1, cells=2)
    for quarter in ((0, 0), (1, 1)):
        weights = torch.ones(1, 1, SIZE, SIZE)
        weights[0, 0, 8 * quarter[0] : 8 * quarter[0] + 8, 8 * quarter[1] : 8 * quarter[1] + 8] = 5.0
        plant(maps, weights, whole(0))
    torch.testing.assert_close(
        maps.read(whole(0), (2, 2))[0, 0], torch.tensor([[1.5, 0.5], [0.5, 1.5]]), rtol=2 / LEVELS, atol=0
    )


def test_several_rows_of_an_image_are_averaged_whatever_their_order():
    weights = torch.rand(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    results = []
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        maps = SaliencyMaps(2)
        plant(maps, weights[order], whole(*[[0, 1, 0, 0, 1][i] for i in order]))
        results.append(maps.levels)
    assert (results[0].int() - results[1].int()).abs().max() <= 1
    maps = SaliencyMaps(2, cells=SIZE)
    plant(maps, weights, whole(0, 1, 0, 0, 1))
    shapes = weights / weights.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(maps.read(whole(0), (SIZE, SIZE))[0], shapes[[0, 2, 3]].mean(0), rtol=0.05, atol=0.01)


def test_two_groups_of_one_update_write_their_own_places():
    """With gradient accumulation a second forward pass comes before the first one's backward pass is forgotten."""
    maps = SaliencyMaps(2, cells=2)
    weights = [torch.ones(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)]
    weights[0][..., :8] = 3.0
    weights[1][..., 8:] = 3.0
    xs = [maps.listen(torch.zeros(1, 1, SIZE, SIZE), whole(i)) for i in range(2)]
    sum(Weighted(w)(x) for w, x in zip(weights, xs)).backward()
    read = maps.read(whole(0, 1), (2, 2))
    assert read[0, 0, 0, 0] > 2 * read[0, 0, 0, 1] and read[1, 0, 0, 1] > 2 * read[1, 0, 0, 0]


def cut(maps: SaliencyMaps, **settings):
    return create_augment('keep-cut', saliency='recycled', maps=maps, **{'size': 8, **settings})


def test_cuts_where_the_map_is_low():
    """n = 4000 cuts of an image whose left half was salient: uniform among windows less than 4 px into it."""
    maps = SaliencyMaps(1)
    weights = torch.full((1, 1, SIZE, SIZE), 0.1)
    weights[..., :8] = 1.0
    plant(maps, weights, whole(0))
    augment = cut(maps, tau=0.5)
    augment(torch.randn(4000, 3, SIZE, SIZE), torch.zeros(4000).long(), where=whole(0).expand(4000, -1))
    left = augment.last['boxes'][:, 0, 0]
    assert left.min() >= 5
    counts = torch.bincount(left - 5, minlength=4).double() / 4000
    assert (counts - 0.25).abs().max() < 0.035


def test_an_image_without_a_map_is_cut_blindly():
    augment = cut(SaliencyMaps(1))
    augment(torch.randn(20000, 1, 12, 12), torch.zeros(20000).long(), where=whole(0, size=12).expand(20000, -1))
    x0, y0 = augment.last['boxes'][:, 0, :2].unbind(1)
    counts = torch.bincount(5 * y0 + x0, minlength=25).double()
    assert ((counts - 800).abs() < 5 * 800**0.5).all()


@pytest.mark.parametrize('mode', ['cutout', 'erase', 'cutmix'])
def test_what_was_cut_is_not_written(mode):
    maps = SaliencyMaps(8, cells=SIZE)
    augment = cut(maps, mode=mode, num_classes=8)
    x = augment(torch.randn(8, 3, SIZE, SIZE), torch.arange(8), where=whole(*range(8)))[0]
    own = augment.own_pixels()
    assert 0 < own.float().mean() < 1
    Weighted(torch.ones(8, 3, SIZE, SIZE))(augment.recycle(x)).backward()
    assert torch.equal(maps.levels > 0, own[:, 0])


def test_what_later_augmentations_replace_is_not_written_either():
    maps = SaliencyMaps(6, cells=SIZE)
    chain = Compose([cut(maps), CutMix(num_classes=6, mixing='elem'), JointOcclusion(grid=4)])
    x, _ = chain(torch.randn(6, 3, SIZE, SIZE), torch.arange(6), where=whole(*range(6)))
    own = chain.own_pixels()
    assert torch.equal(own, ~(chain.augments[0].last['mask'] | chain.augments[1].last['mask']))
    assert len(x) == 12 and chain.recycling is chain.augments[0]
    # The rows that are whole count, not their occluded copies.
    weights = torch.ones(12, 3, SIZE, SIZE)
    weights[6:] = torch.rand(6, 3, SIZE, SIZE)
    Weighted(weights)(maps.listen(x, whole(*range(6)), own)).backward()
    assert torch.equal(maps.levels > 0, own[:, 0]) and maps.levels.unique().tolist() == [0, 255]
    only = Compose([cut(maps), JointOcclusion(grid=4, only=True)])
    only(torch.randn(6, 3, SIZE, SIZE), torch.arange(6), where=whole(*range(6)))
    assert torch.equal(only.own_pixels(), ~(only.augments[0].last['mask'] | only.augments[1].last['mask']))


def test_off_neither_reads_nor_writes():
    maps = SaliencyMaps(4)
    augment = cut(maps)
    x = torch.randn(4, 3, SIZE, SIZE)
    for augment.enabled, augment.strength in ((False, 1.0), (True, 0.0)):
        out, _ = augment(x, torch.arange(4), where=whole(*range(4)))
        assert out is x and augment.recycle(out) is x


def test_a_loop_of_ones_own_learns_from_its_steps():
    """The first epoch cuts blindly, the second where the first one's gradients were small."""
    torch.manual_seed(0)
    maps, model = SaliencyMaps(16), small_cnn()
    augment = cut(maps)
    x = torch.randn(16, 3, SIZE, SIZE)
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        out, target = augment(x, torch.arange(16) % 5, where=whole(*range(16)))
        F.cross_entropy(model(augment.recycle(out)), target).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), kept))
    assert augment.last['saliency'].flatten(1).std(1).min() > 0 and (maps.levels > 0).flatten(1).any(1).all()
    assert not augment.last['saliency'].requires_grad


def test_recycling_changes_no_gradient_of_the_model():
    model, x = small_cnn(), torch.randn(4, 3, SIZE, SIZE)
    gradients = []
    for images in (x, SaliencyMaps(4).listen(x, whole(*range(4)))):
        torch.manual_seed(1)  # of the dropout
        model.zero_grad()
        F.cross_entropy(model(images), torch.arange(4)).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_refusals():
    maps = SaliencyMaps(1)
    with pytest.raises(ValueError, match="saliency 'recycled' and maps=.* go together"):
        create_augment('keep-cut', saliency='recycled')
    with pytest.raises(ValueError, match="saliency 'recycled' and maps=.* go together"):
        create_augment('keep-cut', model=small_cnn(), saliency='low', maps=maps)
    with pytest.raises(ValueError, match='leave out mixup_alpha'):
        cut(maps, mode='cutmix', num_classes=3, mixup_alpha=0.2)
    with pytest.raises(ValueError, match='needs where='):
        cut(maps)(torch.randn(1, 3, SIZE, SIZE), torch.zeros(1).long())
    with pytest.raises(ValueError, match='needs where='):
        create_augment('keep-cut', tau=None)(torch.randn(1, 3, SIZE, SIZE), torch.zeros(1).long(), where=whole(0))
    with pytest.raises(ValueError, match='cells must be between 1 and 256, got 0'):
        SaliencyMaps(1, cells=0)
