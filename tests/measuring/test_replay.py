"""A run's augmentation, drawn again: the same draws whoever makes them, of images that are mixed across classes."""

import argparse
import random

import numpy as np
import pytest
import torch
from timm.data import Mixup, create_dataset, create_loader

from keepaug import prepare
from keepaug.augment import Compose, create_augment
from keepaug.measuring.replay import AugmentedBatches, check_replay, mix_seed
from keepaug.training.forward import Forward

SAMPLES = [5, 1, 22, 13, 7, 8, 20, 3, 16, 11]
CPU = torch.device('cpu')


def batches_of(data, workers: int = 0, augment=None, mixup_fn=None, no_aug=False, **changes) -> AugmentedBatches:
    loader = create_loader(
        create_dataset('', root=data, split='train'),
        (3, 32, 32),
        4,
        is_training=True,
        no_aug=no_aug,
        device=CPU,
        use_prefetcher=False,
        num_workers=workers,
        auto_augment=None if no_aug else 'original',
        re_prob=0.0 if no_aug else 0.5,
        interpolation='bilinear',
    )
    return AugmentedBatches(loader, SAMPLES, augment, mixup_fn, Forward(), **changes)


def drawn(batches) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(batches)
    return torch.cat([x for x, _ in parts]), torch.cat([target for _, target in parts])


def everything() -> dict:
    return dict(
        augment=Compose([create_augment('keep-cut', model=None, tau=None, size=8), create_augment('cutout', size=8)]),
        mixup_fn=Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, mode='elem', num_classes=3),
    )


def test_without_augmentation_the_images_as_they_are(data):
    batches = batches_of(data, no_aug=True)
    x, target = drawn(batches)
    dataset = create_dataset('', root=data, split='train')
    dataset.transform = batches.batches.dataset.transform
    assert torch.equal(x, torch.stack([dataset[number][0] for number in SAMPLES]))
    assert target.tolist() == [number // 8 for number in SAMPLES]
    assert len(batches) == 3, 'four, four and the two left'


def test_the_same_whichever_worker_draws(data):
    x, target = drawn(batches_of(data, **everything()))
    again, of_workers = drawn(batches_of(data, **everything())), drawn(batches_of(data, workers=2, **everything()))
    assert torch.equal(x, again[0]) and torch.equal(target, again[1])
    assert torch.equal(x, of_workers[0]) and torch.equal(target, of_workers[1])
    assert not torch.equal(x, drawn(batches_of(data, seed=1, **everything()))[0])


def test_processes_share_the_batches(data):
    whole = list(batches_of(data, **everything()))
    shares = [list(batches_of(data, **everything(), rank=rank, world_size=2)) for rank in range(2)]
    assert [len(share) for share in shares] == [2, 1]
    for mine, all_of_them in ((shares[0], whole[::2]), (shares[1], whole[1::2])):
        for (x, target), (wanted, label) in zip(mine, all_of_them, strict=True):
            assert torch.equal(x, wanted) and torch.equal(target, label)


def test_smoothing_is_taken_out(data):
    smoothed = Mixup(mixup_alpha=1.0, num_classes=3, label_smoothing=0.3)
    plain = Mixup(mixup_alpha=1.0, num_classes=3, label_smoothing=0.0)
    found = drawn(batches_of(data, mixup_fn=smoothed, smoothing=0.3))[1]
    torch.testing.assert_close(found, drawn(batches_of(data, mixup_fn=plain))[1], atol=1e-6, rtol=0.0)


def test_streams_come_back(data):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    drawn(batches_of(data, **everything()))
    next(iter(batches_of(data, **everything())))  # left in the middle
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_seeds_differ():
    """1e4 samples, as many batches, two seeds."""
    seeds = [mix_seed(seed, number) for seed in (0, 42) for number in range(-10000, 10000)]
    assert len(set(seeds)) == len(seeds) and 0 <= min(seeds) <= max(seeds) < 2**32


@pytest.mark.parametrize(
    'changes,named',
    [
        (dict(feature_cutmix='all'), '--feature-cutmix'),
        (dict(manifold_mixup='0,1'), '--manifold-mixup'),
        (dict(naflex_loader=True), '--naflex-loader'),
        (dict(task='multilabel'), '--task multilabel'),
        (dict(mixup_mode='half', mixup=0.2), '--mixup-mode half'),
        (dict(augment_copies=10**6), '--augment-copies'),
        (dict(train_img_sizes=[32, 10**6]), '--train-img-sizes'),
    ],
)
def test_what_only_training_has_is_refused(changes, named):
    run = vars(prepare(argparse.Namespace()))
    check_replay(argparse.Namespace(**run))
    check_replay(argparse.Namespace(**{**run, 'mixup_mode': 'half'}))
    with pytest.raises(ValueError, match=named):
        check_replay(argparse.Namespace(**{**run, **changes}))
