"""Joint occlusion: the batch twice, and where the second copy is empty."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug import create_augment
from keepaug.augment.joint_occlusion import move_inside
from keepaug.functional import norm_grad_saliency
from tests.functional.reference import SIGNIFICANT, rate_p, uniform_p, window_sums
from tests.functional.toys import small_cnn

DRAWS = 10_000


def images(n: int = 6, height: int = 32, width: int = 32) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(n) % 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('mode', ['hide-and-seek', 'cutout', 'saliency', 'none'])
@pytest.mark.parametrize('soft', [False, True])
def test_clean_rows_then_occluded_rows(mode, soft):
    x, target = images()
    target = F.one_hot(target, 5).float() if soft else target
    augment = create_augment('joint-occlusion', model=small_cnn(), mode=mode, layer='2' if mode == 'saliency' else None)
    out, doubled = augment(x, target, seeded())
    mask = augment.last['mask']
    assert torch.equal(out[:6], x)
    assert torch.equal(out[6:], x.masked_fill(mask, 0.0))
    assert torch.equal(doubled, torch.cat([target, target]))
    assert mask.any() == (mode != 'none') and not mask.all()
    unlabelled, nothing = augment(x, None, seeded())
    assert nothing is None and len(unlabelled) == 12


def test_batch_norm_sees_both_copies_at_once():
    x, target = images()
    model = small_cnn()
    out, _ = create_augment('joint-occlusion')(x, target, seeded())
    model.train()(out)
    expected = model[0](out).mean((0, 2, 3))
    torch.testing.assert_close(model[1].running_mean, 0.1 * expected)
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize('mode', ['hide-and-seek', 'cutout', 'saliency'])
def test_only_the_occluded_copies(mode):
    x, target = images(400, 8, 8)
    augment = create_augment(
        'joint-occlusion',
        model=small_cnn(),
        mode=mode,
        layer='0' if mode == 'saliency' else None,
        keep_image=0.7,
        size=2,
        holes=30,
        keep_patch=0.1,
        only=True,
    )
    out, same = augment(x, target, seeded())
    mask = augment.last['mask']
    assert torch.equal(out, x.masked_fill(mask, 0.0)) and same is target
    occluded = mask.flatten(1).any(1)
    assert rate_p(occluded.sum().item(), 400, 0.3) > SIGNIFICANT
    if mode == 'saliency':
        boxes = augment.last['boxes'][:, 0]
        assert torch.equal((boxes[:, 2] > boxes[:, 0]), occluded)


def test_papers_sizes():
    """At 224 px the defaults are the paper's: 56 px squares, 16 px of jitter."""
    x, target = images(4, 224, 224)
    model = small_cnn()
    augment = create_augment('joint-occlusion', model=model, mode='saliency', layer='2')
    augment(x, target, seeded())
    boxes = augment.last['boxes'][:, 0]
    assert (boxes[:, 2:] - boxes[:, :2] == 56).all()
    still = create_augment('joint-occlusion', model=model, mode='saliency', layer='2', jitter=0)
    still(x, target, seeded())
    moved = boxes - still.last['boxes'][:, 0]
    assert moved.abs().max() <= 16 and moved.any()
    cut = create_augment('joint-occlusion', mode='cutout', holes=1)
    cut(*images(200, 224, 224), seeded())
    assert cut.last['mask'].sum((1, 2, 3)).max() == 56**2
    assert create_augment('joint-occlusion', mode='cutout').holes == 6


@pytest.mark.parametrize('height, width', [(32, 32), (24, 40)])
def test_the_most_salient_window_by_a_slow_loop(height, width):
    x, target = images(5, height, width)
    model = small_cnn()
    augment = create_augment('joint-occlusion', model=model, mode='saliency', layer='4', size=7, jitter=0)
    augment(x, target, seeded())
    small = norm_grad_saliency(model, '4', x, target)
    full = F.interpolate(small, (height, width), mode='bilinear', align_corners=False)
    assert torch.equal(augment.last['saliency'], full)
    for saliency, box in zip(full[:, 0], augment.last['boxes'][:, 0].tolist()):
        sums = window_sums(saliency, (7, 7))
        assert sums[box[1], box[0]] == pytest.approx(sums.max().item(), rel=1e-9)
        assert box[2:] == [box[0] + 7, box[1] + 7]


class Nowhere(nn.Module):
    """Whose logits do not look at the image, but for a layer they pass through."""

    def __init__(self, value: float):
        super().__init__()
        self.layer = nn.Identity()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) * self.value).sum((1, 2, 3))[:, None].expand(-1, 5)


@pytest.mark.parametrize('value', [0.0, float('nan')])
def test_without_saliency_the_place_is_uniform(value):
    augment = create_augment('joint-occlusion', model=Nowhere(value), mode='saliency', layer='layer', size=2, jitter=0)
    augment(torch.ones(DRAWS, 1, 4, 5), torch.zeros(DRAWS, dtype=torch.long), seeded(1))
    boxes = augment.last['boxes'][:, 0]
    assert uniform_p(boxes[:, 1] * 4 + boxes[:, 0], 12) > SIGNIFICANT


def test_jitter_is_uniform_and_stops_at_the_border():
    middle = torch.tensor([[10, 12, 14, 15]]).expand(DRAWS, 4)
    moved = move_inside(middle, 2, (30, 30), seeded(2))
    assert (moved[:, 2:] - moved[:, :2] == torch.tensor([4, 3])).all()
    shift = moved[:, :2] - middle[:, :2] + 2
    assert uniform_p(shift[:, 0] * 5 + shift[:, 1], 25) > SIGNIFICANT
    corner = move_inside(torch.tensor([[0, 27, 4, 30]]).expand(DRAWS, 4), 3, (30, 30), seeded(3))
    assert (corner[:, :2] >= 0).all() and (corner[:, 2:] <= 30).all()
    assert corner[:, 0].unique().tolist() == [0, 1, 2, 3] and corner[:, 1].unique().tolist() == [24, 25, 26, 27]
    assert torch.equal(move_inside(middle, 0, (30, 30), None), middle)


def test_strength_falls_with_the_share_of_images():
    x, target = images(DRAWS, 4, 4)
    augment = create_augment('joint-occlusion', keep_patch=0.0, keep_image=0.2)
    augment.strength = 0.5
    augment(x, target, seeded(4))
    assert rate_p(augment.last['mask'].flatten(1).all(1).sum().item(), DRAWS, 0.4) > SIGNIFICANT
    augment.strength = 0.0
    out, _ = augment(x, target)
    assert out is x


@pytest.mark.parametrize(
    'settings, said',
    [
        (dict(mode='blur'), 'mode must be'),
        (dict(grid=0), 'grid must be between 1'),
        (dict(holes=0), 'holes must be between 1 and 1024'),
        (dict(size=0), 'size must be at least 1'),
        (dict(jitter=-1), 'jitter must be at least 0'),
        (dict(keep_patch=1.5), 'keep_patch must be at least 0 and below 1'),
        (dict(keep_image=-1), 'keep_image must be at least 0 and below 1'),
        (dict(mode='saliency'), 'needs a model'),
        (dict(mode='saliency', model=nn.Sequential()), 'layer must name a module'),
    ],
)
def test_refuses(settings, said):
    with pytest.raises(ValueError, match=said):
        create_augment('joint-occlusion', **settings)


def test_says_before_training_what_does_not_fit():
    x, _ = images(1)
    with pytest.raises(ValueError, match='size must be at most 32 .* got 40'):
        create_augment('joint-occlusion', model=small_cnn(), mode='saliency', layer='2', size=40).check_images(x)
    with pytest.raises(ValueError, match='layer must name a module of .* got nowhere'):
        create_augment('joint-occlusion', model=small_cnn(), mode='saliency', layer='nowhere').check_images(x)
    for settings, words in (
        (dict(mode='cutout', size=40), 'size must be at most 32 .* got 40'),
        (dict(grid=33), 'grid must be at most 32 .* got 33'),
        (dict(model=small_cnn(), mode='saliency', layer='2', jitter=33), 'jitter must be at most 32 .* got 33'),
    ):
        with pytest.raises(ValueError, match=words):
            create_augment('joint-occlusion', **settings).check_images(x)
    create_augment('joint-occlusion', mode='cutout', size=32).check_images(x)  # may overflow
