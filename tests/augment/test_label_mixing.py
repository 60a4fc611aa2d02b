"""Mixup, CutMix and keep-cut's form of it: labels follow pixels, and every sample has its own draw where it should."""

import pytest
import scipy.stats
import timm
import torch
from timm.data.mixup import mixup_target

import keepaug
from keepaug.functional import boxes_to_mask, mix_targets, region_scores
from keepaug.functional.mixing import cutmix_sizes, draw_lam, draw_pairs, draw_partners, overlapping_boxes, share_left
from keepaug.private import sample_dirichlet


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _named_images(batch: int, size: tuple[int, int] = (12, 16)) -> torch.Tensor:
    """Images whose every pixel is the number of the image."""
    return torch.arange(float(batch)).view(-1, 1, 1, 1).expand(batch, 3, *size).contiguous()


# Exact.


def test_targets_follow_timms_rule():
    target = torch.tensor([0, 2, 1, 2])
    lam = torch.tensor([1.0, 0.25, 0.5, 0.0])
    wanted = mixup_target(target, 4, lam[:, None], smoothing=0.1)
    assert torch.allclose(mix_targets(target, target.flip(0), lam, 4, smoothing=0.1), wanted)


def test_lam_is_the_weight_of_target_not_of_the_other():
    mixed = mix_targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.75]), 2)
    assert mixed.tolist() == [[0.75, 0.25]]


def test_class_ids_survive_half_precision():
    """Ids above 256 are not whole numbers in bfloat16."""
    target = torch.tensor([257, 999])
    assert mix_targets(target, target.flip(0), torch.ones(2, dtype=torch.bfloat16), 1000).argmax(1).equal(target)


def test_soft_targets_are_taken_as_they_are():
    soft = torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    assert torch.allclose(mix_targets(soft, soft.flip(0), torch.tensor([1.0, 1.0]), 2, smoothing=0.3), soft)


@pytest.mark.parametrize('batch', [1, 2, 3, 8, 9])
def test_partners(batch):
    partner = draw_partners(batch, _generator())
    assert partner.sort().values.equal(torch.arange(batch))
    assert batch == 1 or (partner != torch.arange(batch)).all()
    pair = draw_pairs(batch, _generator())
    own = torch.arange(batch)
    assert batch == 1 or (pair != own).all()
    assert (pair[pair] == own).sum() == batch - batch % 2 or batch == 1


# Statistical.


def test_partners_are_uniform_over_all_others():
    draws = torch.stack([draw_partners(5, _generator(seed)) for seed in range(4000)])
    counts = torch.bincount(draws[:, 0], minlength=5)
    assert counts[0] == 0
    assert ((counts[1:] - 1000).abs() < 4 * (4000 * 0.25 * 0.75) ** 0.5).all()


@pytest.mark.parametrize('alpha', [0.2, 1.0, 4.0])
def test_lam_has_betas_moments(alpha):
    lam = draw_lam(40_000, alpha, _generator())
    variance = 1 / (4 * (2 * alpha + 1))
    assert lam.mean().item() == pytest.approx(0.5, abs=4 * (variance / 40_000) ** 0.5)
    assert lam.var().item() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize('alpha', [1e-4, 1e-3, 1e-2, 0.09])
def test_a_small_alpha_mixes_hardly_anything(alpha):
    """Both of its gamma variates may be too small for a number; their share is then still that of the distribution."""
    lam = draw_lam(400_000, alpha, _generator())
    assert ((lam >= 0) & (lam <= 1)).all()
    for bound in (1e-30, 1e-3, 0.1, 0.4, 0.6, 0.9, 1 - 1e-6):
        share = scipy.stats.beta(alpha, alpha).cdf(bound)
        deviation = (share * (1 - share) / len(lam)) ** 0.5
        assert (lam <= bound).double().mean().item() == pytest.approx(share, abs=4 * deviation), bound


def test_an_ordinary_alpha_draws_as_ever():
    for alpha in (0.1, 0.2, 1.0):
        drawn = sample_dirichlet(torch.full((9, 2), alpha, dtype=torch.float64), _generator())[:, 0]
        assert torch.equal(draw_lam(9, alpha, _generator()), drawn)


def test_boxes_reach_every_border():
    boxes = overlapping_boxes(torch.full((20_000, 2), 5), (12, 16), _generator())
    assert (boxes[:, 0] == 0).any() and (boxes[:, 2] == 16).any()
    assert (boxes[:, 1] == 0).any() and (boxes[:, 3] == 12).any()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 16).all() and (boxes[:, 3] <= 12).all()


# Reference.


def test_share_equals_pixels_counted():
    boxes = overlapping_boxes(cutmix_sizes(draw_lam(500, 1.0, _generator(1)), (12, 16)), (12, 16), _generator(2))
    counted = (~boxes_to_mask(boxes, (12, 16))).double().mean((1, 2, 3))
    assert torch.allclose(share_left(boxes, (12, 16)), counted)


@pytest.mark.parametrize(
    'settings',
    [
        dict(cutmix_alpha=1.0),
        dict(cutmix_minmax=(0.2, 0.8)),
        dict(mixup_alpha=0.4),
        dict(mixup_alpha=0.4, cutmix_alpha=1.0),
        dict(cutmix_alpha=1.0, prob=0.5),
    ],
)
@pytest.mark.parametrize('mixing', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('batch', [1, 7, 16])
def test_pixels_and_labels_agree_with_a_loop(settings, mixing, batch):
    mixer = keepaug.create_augment('cutmix', num_classes=batch, **{'cutmix_alpha': 0.0, **settings}, mixing=mixing)
    x, target = _named_images(batch), torch.arange(batch)
    for seed in range(5):
        mixed, soft = mixer(x, target, _generator(seed))
        partner, lam, boxes = (mixer.last[name] for name in ('partner', 'lam', 'boxes'))
        for i in range(batch):
            x0, y0, x1, y1 = boxes[i, 0].tolist()
            wanted = x[i].clone()
            if x1 > x0 and y1 > y0:
                wanted[:, y0:y1, x0:x1] = x[partner[i], :, y0:y1, x0:x1]
                assert lam[i].item() == pytest.approx(1 - (x1 - x0) * (y1 - y0) / (12 * 16))
            else:
                wanted = lam[i].item() * x[i] + (1 - lam[i].item()) * x[partner[i]]
            assert torch.allclose(mixed[i], wanted.float(), atol=1e-5)
            label = torch.zeros(batch)
            label[i] += lam[i]
            label[partner[i]] += 1 - lam[i]
            assert torch.allclose(soft[i], label, atol=1e-6)
    assert x.equal(_named_images(batch))


@pytest.mark.parametrize('mixing, distinct', [('batch', 1), ('pair', 16), ('elem', 32)])
def test_draws_are_shared_as_the_mode_says(mixing, distinct):
    mixer = keepaug.create_augment('mixup', num_classes=2, mixing=mixing)
    mixer(_named_images(32), torch.zeros(32, dtype=torch.long), _generator())
    lam, partner = mixer.last['lam'], mixer.last['partner']
    assert len(lam.unique()) == distinct
    if mixing == 'pair':
        assert lam.equal(lam[partner])


def test_probability_is_applied_once():
    mixer = keepaug.create_augment('mixup', num_classes=2, mixing='elem', prob=0.3)
    mixer(_named_images(20_000, (1, 1)), torch.zeros(20_000, dtype=torch.long), _generator())
    assert (mixer.last['lam'] < 1).double().mean().item() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize(
    'settings',
    [
        dict(mixup_alpha=0.8, cutmix_alpha=0.0),
        dict(cutmix_alpha=1.0, prob=0.8),
        dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.3, prob=0.8),
    ],
)
def test_fading_lowers_mixups_alpha_and_cutmixs_probability(settings):
    """Data Augmentation Revisited, section 4.1; at no point does either touch the other's draws."""
    augment = keepaug.create_augment('cutmix', num_classes=4, mixing='elem', **settings)
    augment.strength = 0.25
    n = 10_000
    augment(torch.zeros(n, 1, 8, 8), torch.zeros(n, dtype=torch.long), _generator())
    cut = (augment.last['boxes'][:, 0, 2:] > augment.last['boxes'][:, 0, :2]).all(1)
    lam = augment.last['lam']
    blended = ~cut & (lam < 1)
    prob, alpha = settings.get('prob', 1.0), settings.get('mixup_alpha', 0.0)
    switch = (settings.get('switch_prob', 0.5) if alpha else 1.0) if settings['cutmix_alpha'] else 0.0
    # Regions of less than a pixel and lambdas of 1 do not show.
    assert cut.double().mean().item() == pytest.approx(prob * switch * 0.25 * (1 - 1 / 64), abs=0.015)
    if alpha:
        assert blended.double().mean().item() > 0.9 * prob * (1 - switch)
        # Variance of Beta(a, a): 1 / (4 (2 a + 1)).
        assert lam[blended].var().item() == pytest.approx(1 / (4 * (2 * alpha * 0.25 + 1)), rel=0.05)
    else:
        assert not blended.any()


def test_switch_chooses_cutmix_at_its_rate():
    mixer = keepaug.create_augment('mixup', num_classes=2, mixing='elem', cutmix_minmax=(0.5, 0.5), switch_prob=0.8)
    mixer(_named_images(10_000, (4, 4)), torch.zeros(10_000, dtype=torch.long), _generator())
    assert mixer.last['mask'].flatten(1).any(1).double().mean().item() == pytest.approx(0.8, abs=0.02)


# KeepCutMix.


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=4)


@pytest.mark.parametrize('mixing', ['batch', 'pair', 'elem'])
def test_keep_cutmix_cuts_below_its_quantile_and_labels_by_pixels(mixing, model):
    cut = keepaug.create_augment('keep-cut', model=model, num_classes=4, mode='cutmix', mixing=mixing)
    x, target = torch.randn(9, 3, 32, 32, generator=_generator()), torch.arange(9) % 4
    mixed, soft = cut(x, target, _generator(3))
    saliency, boxes, lam, partner = (cut.last[name] for name in ('saliency', 'boxes', 'lam', 'partner'))
    for i, (x0, y0, x1, y1) in enumerate(boxes[:, 0].tolist()):
        inside = x[partner[i], :, y0:y1, x0:x1]
        assert mixed[i, :, y0:y1, x0:x1].equal(inside)
        assert lam[i].item() == pytest.approx(1 - (x1 - x0) * (y1 - y0) / 1024)
        if x1 > x0 and y1 > y0:
            scores = region_scores(saliency[i : i + 1], (y1 - y0, x1 - x0))[0]
            assert scores[y0, x0] <= scores.flatten().quantile(0.6, interpolation='lower')
    assert torch.allclose(soft.sum(1), torch.ones(9))
    own = soft[torch.arange(9), target]
    assert (own >= lam.float() - 1e-6).all()


def test_keep_cutmix_places_each_sample_of_one_size_by_itself(model):
    cut = keepaug.create_augment(
        'keep-cut', model=model, num_classes=4, mode='cutmix', cutmix_minmax=(0.25, 0.25), mixing='batch'
    )
    cut(torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.long), _generator())
    boxes = cut.last['boxes'][:, 0]
    assert len((boxes[:, 2:] - boxes[:, :2]).unique(dim=0)) == 1
    assert len(boxes.unique(dim=0)) > 8


@pytest.mark.parametrize('mixing, device', [('batch', 'cpu'), ('pair', 'meta'), ('elem', 'cpu')])
def test_coins_fall_where_the_host_sees_them(mixing, device):
    mixer = keepaug.create_augment('mixup', num_classes=2, mixing=mixing)
    coins = mixer.flip_coin(0.5, torch.zeros(4, dtype=torch.long, device='meta'), None)
    assert coins.device.type == device and coins.shape == (4,)


def test_saliency_is_measured_only_where_a_batch_is_cut(model):
    """With mixup beside, a batch is drawn for one or the other: half of them need no saliency."""
    cut = keepaug.create_augment(
        'keep-cut', model=model, num_classes=4, mode='cutmix', mixup_alpha=0.2, cutmix_minmax=(0.5, 0.5), mixing='batch'
    )
    x, target = torch.randn(3, 3, 32, 32, generator=_generator()), torch.arange(3)
    measured = []
    for seed in range(40):
        cut(x, target, _generator(seed))
        measured.append(cut.last['saliency'] is not None)
        assert measured[-1] == bool(cut.last['mask'].any())
    assert 10 < sum(measured) < 30


def test_refusals(model):
    for settings in (
        dict(num_classes=None),
        dict(num_classes=3, mixing='half'),
        dict(num_classes=3, prob=2.0),
        dict(num_classes=3, cutmix_alpha=-1.0),
        dict(num_classes=3, cutmix_minmax=(0.8, 0.2)),
        dict(num_classes=3, cutmix_alpha=0.0),
    ):
        with pytest.raises(ValueError):
            keepaug.create_augment('cutmix', **settings)
    with pytest.raises(ValueError, match='labels'):
        keepaug.create_augment('cutmix', num_classes=3)(_named_images(2), None)
    with pytest.raises(TypeError, match='cutmix'):
        keepaug.create_augment('keep-cut', model=model, cutmix_alpha=1.0)
