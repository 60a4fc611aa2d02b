"""Copies: each sample several times in one batch, decoded once, every copy drawn on its own."""

import itertools

import pytest
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.task import ClassificationTask
from torchvision import transforms

from keepaug.data.crops import pad_crop
from keepaug.data.transform import (
    TrainingTransform,
    TransformChanges,
    change_scheduled,
    change_transform,
    list_steps,
    shared_strength,
)
from keepaug.data.views import collate_splits
from tests.scripts import TINY, run_train


@pytest.mark.parametrize(
    'copies, paired, views',
    [
        (1, False, 'photo crop0 policy tensor'),
        (3, False, ('photo crop0 policy tensor', 'photo crop1 policy tensor', 'photo crop2 policy tensor')),
        (1, True, ('photo crop0 tensor', 'photo crop0 policy tensor')),
        (
            2,
            True,
            ('photo crop0 tensor', 'photo crop1 tensor', 'photo crop0 policy tensor', 'photo crop1 policy tensor'),
        ),
    ],
)
def test_views_of_a_kind_stay_together(copies, paired, views):
    number = itertools.count()
    transform = TrainingTransform(
        lambda image: f'{image} crop{next(number)}',
        lambda image: f'{image} policy',
        lambda image: f'{image} tensor',
        paired,
        copies,
    )
    assert transform('photo') == views


def test_collate_equals_timms_order():
    batch = [((torch.full((1, 2, 2), i), torch.full((1, 2, 2), 10 + i)), i) for i in range(3)]
    images, target = collate_splits(batch)
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12] and target.tolist() == [0, 1, 2] * 2
    _, soft = collate_splits([(images, torch.tensor([label, 1.0 - label])) for images, label in batch])
    assert soft.shape == (6, 2) and torch.equal(soft[:3], soft[3:])


class Numbered(torch.utils.data.Dataset):
    """Image i is of colour i; notes how often each is decoded."""

    transform = None

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.decoded.append(index)
        return self.transform(Image.new('RGB', (32, 32), (index, 0, 100))), index


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('workers', [0, 2])
def test_through_timms_loader(prefetcher, workers):
    dataset = Numbered()
    loader = create_loader(
        change_transform(dataset, TransformChanges(copies=3)),
        (3, 32, 32),
        batch_size=4,
        is_training=True,
        no_aug=True,
        num_workers=workers,
        device=torch.device('cpu'),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        use_prefetcher=prefetcher,
        collate_fn=None if prefetcher else collate_splits,
    )
    seen = []
    for x, target in loader:
        assert x.shape == (12, 3, 32, 32)
        colours = (x[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(colours, target) and torch.equal(target, target[:4].repeat(3))
        seen += target[:4].tolist()
    assert sorted(seen) == list(range(12))
    assert workers or sorted(dataset.decoded) == list(range(12)), 'decoded once'


def test_copies_differ(data):
    dataset = change_transform(create_dataset('', root=data, split='train'), TransformChanges(copies=2))
    loader = create_loader(
        dataset, (3, 32, 32), batch_size=4, is_training=True, num_workers=0, device=torch.device('cpu')
    )
    x, _ = next(iter(loader))
    assert not any(torch.equal(one, other) for one, other in zip(x[:4], x[4:]))


def test_scheduled_sizes(data):
    """timm keeps the transforms of several sizes to itself, where only the finished loader can be asked for them."""
    changes = TransformChanges(crop=pad_crop, paired=True, copies=2, strength=shared_strength())
    dataset = change_transform(create_dataset('', root=data, split='train'), changes)
    loader = create_loader(
        dataset,
        (3, 32, 32),
        batch_size=4,
        is_training=True,
        num_workers=0,
        device=torch.device('cpu'),
        input_size_choices=[32, 48],
        batch_size_choices=[4, 2],
        auto_augment='rand-m9',
    )
    change_scheduled(loader.dataset)
    steps = dict(list_steps(loader.dataset))
    assert [type(step).__name__ for step, fades in steps.items() if fades] == ['RandAugment']
    assert [step.size for step in steps if isinstance(step, transforms.RandomCrop)] == [(48, 48)]
    seen = {tuple(x.shape): x for x, _ in loader}
    assert set(seen) <= {(16, 3, 32, 32), (8, 3, 48, 48)}
    changes.strength.fill_(0.0)
    for x, _ in loader:
        assert torch.equal(*x.chunk(2)), 'both sides of a pair'


@pytest.mark.parametrize(
    'flags, rows, soft',
    [
        ('', 24, False),
        ('--no-prefetcher', 24, False),
        ('-j 2', 24, False),
        ('--mixup 0.5', 24, True),
        ('--train-img-sizes 32', 24, False),
        ('--keep-cut --keep-size 8', 24, False),
        ('--joint-occlusion', 48, False),
        ('--joint-occlusion cutout --occlusion-only --cutmix 1 --no-prefetcher', 24, True),
    ],
)
def test_samples_count_once(flags, rows, soft, data, tmp_path, monkeypatch, caplog):
    """8 samples of 3 copies each; the learning rate and the log know 8."""
    seen = []
    forward = ClassificationTask.forward

    def watched(self, input, target):
        seen.append((len(input), target.shape))
        return forward(self, input, target)

    monkeypatch.setattr(ClassificationTask, 'forward', watched)
    caplog.set_level('INFO', logger='train')
    tiny = TINY.replace('--lr 0.05', '--lr-base 0.1 --lr-base-size 16')
    run_train(f'{data} {tiny} --epochs 1 --augment-copies 3 {flags}', tmp_path)
    assert seen == [(rows, (rows, 3) if soft else (rows,))] * 3
    assert 'Learning rate (0.05)' in caplog.text and 'batch size (8' in caplog.text
    line = next(record.message for record in caplog.records if record.message.startswith('Train: 0 [   0'))
    seconds, rate = line.split('Time: ')[1].split('/s')[0].split('s,')
    assert float(rate) * float(seconds) == pytest.approx(8, rel=0.5)  # the time is printed in whole ms
